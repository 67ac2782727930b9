"""The routes of the audit: a tenant's records, newest first."""

from dataclasses import replace
from typing import Any, Final

from starlette.requests import Request

from agentos.domain.audit.chain import NODE_TENANT
from agentos.domain.ids import NAMED_ID_PATTERN, is_named_id
from agentos.domain.tenant.access import HiddenError, is_platform_admin, require_platform
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.call import call_of
from agentos.gateways.http.parameters import Choice, Parameter, Time
from agentos.gateways.orchestrator.parts import parts_of
from agentos.gateways.orchestrator.queries import CURSOR, LIMIT
from agentos.projections.audit_records.queries import AuditFilters

ACTION: Final = Parameter("action", "only records of this action, such as `keys.issue`")
PRINCIPAL_ID: Final = Parameter("principal_id", "only records of this principal")
OUTCOME: Final = Choice("outcome", "only records with this outcome", "allowed", "denied", "error")
OF_RUN: Final = Parameter("run_id", "only records of this run")
AFTER: Final = Time("after", "only records made after this time")
BEFORE: Final = Time("before", "only records made before this time")
OF_TENANT: Final = Parameter(
    "tenant_id",
    "the chain of another tenant, for platform admins; `tnt_node` is the node's own",
    schema={"type": "string", "pattern": NAMED_ID_PATTERN},
)
FILTERS: Final = (ACTION, PRINCIPAL_ID, OUTCOME, OF_RUN, OF_TENANT)
PARAMETERS: Final = (*FILTERS, AFTER, BEFORE, LIMIT, CURSOR)


async def list_audit_records(request: Request) -> Answer:
    """List a tenant's audit records, newest first. It may lag by a second.

    A platform admin may name another tenant: that it did is itself recorded, in that tenant's
    chain, before anything is shown.
    """
    call, parts = call_of(request.scope), parts_of(request)
    filters = replace(read_filters(request), after=AFTER.read(request), before=BEFORE.read(request))
    limit, cursor = LIMIT.read(request) or 0, CURSOR.raw(request)
    tenant_id = tenant_of(request)
    page = await parts.reads.list_audit_records(tenant_id, filters, limit, cursor)
    content: dict[str, Any] = {"records": page.records}
    if page.next_cursor is not None:
        content["next_cursor"] = page.next_cursor
    return json_answer(content, call.correlation_id)


def read_filters(request: Request) -> AuditFilters:
    """Return which records a list or a stream is narrowed to, whenever they were made."""
    return AuditFilters(
        action=ACTION.raw(request),
        principal_id=PRINCIPAL_ID.raw(request),
        outcome=OUTCOME.read(request),
        run_id=OF_RUN.raw(request),
    )


def tenant_of(request: Request) -> str:
    """Return whose records are asked for; `HiddenError`, `ForbiddenError` for who may not."""
    auth = call_of(request.scope).caller
    tenant_id = OF_TENANT.raw(request)
    if tenant_id is None or tenant_id == auth.tenant_id:
        return auth.tenant_id
    if not is_named_id(tenant_id, "tnt"):
        raise OF_TENANT.misfit("not a tenant id")
    if tenant_id == NODE_TENANT:
        require_platform(auth, "read the node's own audit")
    elif not is_platform_admin(auth):
        raise HiddenError(tenant_id)
    return tenant_id
