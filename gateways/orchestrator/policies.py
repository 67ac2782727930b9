"""The routes of policies. They are the caller's tenant's; a platform admin may name another."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request

from agentos.domain.auth import AuthContext
from agentos.domain.ids import is_named_id
from agentos.domain.policy.builtin import DEFAULT_POLICY
from agentos.domain.policy.policy import Policy, policy_ref
from agentos.domain.ports import EventLog
from agentos.domain.tenant.access import ADMIN, require_reach
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.authorization import require
from agentos.gateways.http.bodies import BodyAuth, narrowed, read_body
from agentos.gateways.http.call import call_of
from agentos.gateways.http.parameters import Parameter, PathId
from agentos.gateways.orchestrator.admin_reading import cursor_behind, load_tenant, read_cursor
from agentos.gateways.orchestrator.parts import parts_of
from agentos.gateways.orchestrator.policy_schemas import PolicyActivate, PolicyPublish
from agentos.gateways.orchestrator.queries import CURSOR, LIMIT, read_command_id


class PolicyId(PathId):
    """A policy's id in the path."""

    def read(self, request: Request) -> str:
        """Return the id."""
        policy_id = super().read(request)
        if not is_named_id(policy_id, "pol"):
            raise self.misfit("not a policy's id: pol_…")
        return policy_id


POLICY_ID: Final = PolicyId("policy_id", "the policy's id")
OF_TENANT: Final = Parameter("tenant_id", "another tenant than the caller's: for a platform admin")


async def list_policies(request: Request) -> Answer:
    """List a tenant's policies by id, with `pol_default`, and say which of them holds."""
    call = call_of(request.scope)
    log = parts_of(request).log
    tenant = await load_tenant(log, call.caller, _tenant_id(request))
    limit, cursor = LIMIT.read(request) or 0, CURSOR.raw(request)
    behind = "" if cursor is None else read_cursor(Policy, cursor)
    tenant_id = tenant.ref.tenant_id
    known = {last.ref.aggregate_id for last in await log.last_of_kind(Policy.KIND, tenant_id)}
    ids = sorted(policy_id for policy_id in known | {DEFAULT_POLICY} if policy_id > behind)
    some = ids[:limit]
    policies = await asyncio.gather(*(_load(log, tenant_id, policy_id) for policy_id in some))
    content: dict[str, Any] = {
        "policies": [policy.summary() for policy in policies],
        "default_policy_id": tenant.profile.default_policy_id,
    }
    if len(ids) > limit:
        content["next_cursor"] = cursor_behind(Policy, some[-1])
    return json_answer(content, call.correlation_id)


async def get_policy(request: Request) -> Answer:
    """Return a policy with all of its versions, and which of them is active."""
    call = call_of(request.scope)
    log, policy_id = parts_of(request).log, POLICY_ID.read(request)
    tenant = await load_tenant(log, call.caller, _tenant_id(request))
    policy = await _load(log, tenant.ref.tenant_id, policy_id)
    return json_answer({"policy": policy.view()}, call.correlation_id)


async def publish_policy(request: Request) -> Answer:
    """Publish a new version; with `activate` it holds at once, else it waits to be activated."""
    policy_id, tenant_id = POLICY_ID.read(request), _tenant_id(request)
    body = await read_body(request, PolicyPublish)
    more = {
        "policy_id": policy_id,
        "document": body.document.model_dump(mode="json"),
        "activate": body.activate,
    }
    return await _send(request, "policy.publish", _auth(request, body.auth), tenant_id, more, 201)


async def activate_policy(request: Request) -> Answer:
    """Let a version hold, an earlier one too; 404 for one that was never published."""
    policy_id, tenant_id = POLICY_ID.read(request), _tenant_id(request)
    body = await read_body(request, PolicyActivate)
    more = {"policy_id": policy_id, "version": body.version}
    return await _send(request, "policy.activate", _auth(request, body.auth), tenant_id, more)


def _tenant_id(request: Request) -> str:
    """Return the tenant that is meant; who may reach it is checked where it is loaded."""
    tenant_id = OF_TENANT.raw(request)
    if tenant_id is None:
        return call_of(request.scope).caller.tenant_id
    if not is_named_id(tenant_id, "tnt"):
        raise OF_TENANT.misfit("not a tenant's id")
    return tenant_id


def _auth(request: Request, body: BodyAuth | None) -> AuthContext:
    auth = narrowed(call_of(request.scope).caller, body)
    require(auth, ADMIN)
    return auth


async def _load(log: EventLog, tenant_id: str, policy_id: str) -> Policy:
    ref = policy_ref(tenant_id, policy_id)
    return Policy(ref).fold(await log.read(ref))


async def _send(
    request: Request,
    name: str,
    auth: AuthContext,
    tenant_id: str,
    more: Mapping[str, Any],
    status: int = 200,
) -> Answer:
    call = call_of(request.scope)
    require_reach(auth, tenant_id)
    command = {
        "tenant_id": tenant_id,
        "traceparent": call.traceparent,
        "correlation_id": call.correlation_id,
        "command_id": read_command_id(request),
        **more,
    }
    answer = await parts_of(request).bus.send(name, auth, command)
    return json_answer({"policy": answer["policy"]}, call.correlation_id, status)
