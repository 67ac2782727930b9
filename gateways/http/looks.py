"""An administrator's look at what is another's: recorded first, or not granted."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs

from starlette.types import Scope

from agentos.domain.audit.chain import NODE_TENANT
from agentos.domain.ids import is_named_id
from agentos.domain.ports import CommandBus
from agentos.domain.tenant.access import is_platform_admin
from agentos.gateways.http.audited import LOOK, NODE_LOOK, Audited
from agentos.gateways.http.call import Call

PLACES = frozenset({"tenant_id", "limit", "cursor"})
"""Parameters that say where and how much, and narrow nothing."""


async def record_look(
    bus: CommandBus, scope: Scope, call: Call, about: Audited, parameters: Iterable[str]
) -> None:
    """Write the record of a look if this is one; durable when it returns.

    A look is a platform admin's at another tenant, in that tenant's chain, or at the node, in the
    node's own. Whoever may not look is refused by the route itself. Raises what the handlers
    answer: `NotFoundError` for a tenant that never was, `DependencyUnavailableError`.
    """
    auth, query = call.caller, parse_qs(scope["query_string"].decode("latin-1"))
    tenant_id = _looked_at(about, scope.get("path_params", {}), query)
    if tenant_id is None or tenant_id == auth.tenant_id or not is_platform_admin(auth):
        return
    command = {
        "traceparent": call.traceparent,
        "correlation_id": call.correlation_id,
        "tenant_id": tenant_id,
        "request_id": call.request_id,
        "action": about.action,
        "filters": sorted(set(parameters) & query.keys() - PLACES),
    }
    await bus.send("audit.query", auth, command)


def _looked_at(about: Audited, path: Mapping[str, Any], query: Mapping[str, Any]) -> str | None:
    if about.how == NODE_LOOK:
        return NODE_TENANT
    if about.how != LOOK:
        return None
    named = [path["tenant_id"]] if "tenant_id" in path else query.get("tenant_id", [])
    return named[0] if len(named) == 1 and is_named_id(named[0], "tnt") else None
