"""`POST /v1/policy:check`: what a policy would make of a text. Nothing of it is kept."""

import re
import time
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request

from agentos.domain.auth import AuthContext
from agentos.domain.errors import NotFoundError, TenantUnknownError
from agentos.domain.policy.compiled import CompiledPolicy
from agentos.domain.policy.facts import Facts
from agentos.domain.policy.verdict import Verdict
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.authorization import require
from agentos.gateways.http.bodies import narrowed, read_body
from agentos.gateways.http.call import Noted, call_of
from agentos.gateways.http.routing import Described, add
from agentos.gateways.model_policy.check_schemas import (
    PolicyCheck,
    PolicyCheckAnswer,
    PolicyCheckBody,
)
from agentos.gateways.model_policy.parts import Parts, parts_of

SCOPE: Final = "policy:check"
FIELD: Final = "content.text"
DEFAULT: Final = "default"
RULESET: Final = re.compile(r"(pol_[A-Za-z0-9_-]{1,100})(?:@([0-9]{1,9}))?\Z")


def add_checks(app: FastAPI) -> None:
    """Add the check and its alias."""
    about = Described(
        "Check a text by a policy",
        {200: PolicyCheckAnswer},
        body=PolicyCheckBody,
        errors=(400, 401, 403, 404, 413, 503),
        tag="policy",
    )
    add(app, "POST", "/v1/policy:check", check_policy, about)
    add(app, "POST", "/v1/policy/check", check_policy_alias, about)


async def check_policy(request: Request) -> Answer:
    """Return what the policy decides on a text, why, and what it redacts."""
    call = call_of(request.scope)
    body = await read_body(request, PolicyCheckBody)
    auth = narrowed(call.caller, body.auth)
    require(auth, SCOPE)
    asked = body.policy_check
    policy = await _policy(parts_of(request), auth.tenant_id, asked.ruleset)
    if policy.finder is not None:
        await policy.finder.prepare([asked.content.text])
    verdict = policy.check([(FIELD, asked.content.text)], _facts(asked, auth))
    call.noted = _noted(verdict, asked)
    result = {"request_id": asked.request_id, **verdict.outcome()}
    return json_answer({"policy_result": result}, call.correlation_id)


async def check_policy_alias(request: Request) -> Answer:
    """Do the same: another way to write the path."""
    return await check_policy(request)


def _noted(verdict: Verdict, asked: PolicyCheck) -> Noted:
    """Return what the audit says of a check: the policy and rule that decided, no content."""
    policy, *rules = verdict.reasons
    meta = (("decision", verdict.decision), ("direction", asked.direction))
    return Noted(policy, "denied" if verdict.is_blocked else "allowed", ",".join(rules)[:256], meta)


async def _policy(parts: Parts, tenant_id: str, ruleset: str) -> CompiledPolicy:
    if ruleset == DEFAULT:
        tenant = await parts.known.get(Tenant, tenant_ref(tenant_id))
        if not tenant.position:
            raise TenantUnknownError("the tenant does not exist")
        return await parts.policies.of(tenant)
    named = RULESET.match(ruleset)
    if named is None:
        raise NotFoundError("no such policy, or no such version of it")
    version = None if named[2] is None else int(named[2])
    return await parts.policies.named(tenant_id, named[1], version)


def _facts(asked: PolicyCheck, auth: AuthContext) -> Facts:
    context = auth.policy_context
    return Facts(
        direction=asked.direction,
        model=asked.model,
        tier=asked.tier,
        backend=asked.backend,
        tool=asked.tool,
        data_classification=context.data_classification,
        region=context.region,
        purpose=context.purpose,
        now_ms=time.time_ns() // 1_000_000,
        agent_id=asked.agent_id,
        principal_id=auth.principal.principal_id,
        labels=asked.labels or {},
    )
