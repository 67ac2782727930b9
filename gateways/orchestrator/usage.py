"""The routes of usage: by window, and one model call explained."""

import asyncio
import re
import time
from typing import Any, Final

from starlette.requests import Request

from agentos.domain.admission.budgets import MICRO
from agentos.domain.admission.windows import window_end, window_start
from agentos.domain.auth import AuthContext
from agentos.domain.errors import NotFoundError
from agentos.domain.ids import FREE_ID_PATTERN
from agentos.domain.tenant.access import HiddenError, is_platform_admin
from agentos.domain.times import rfc3339
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.call import call_of
from agentos.gateways.http.parameters import Choice, Parameter, Time
from agentos.gateways.orchestrator.parts import Parts, parts_of
from agentos.gateways.orchestrator.queries import CURSOR, LIMIT, read_agent_filter
from agentos.projections.usage_by_window.queries import (
    DIMENSIONS,
    Dimension,
    UsageFilters,
    UsageRow,
    Window,
)

FREE_ID: Final = re.compile(FREE_ID_PATTERN)
WINDOW: Final = Choice("window", "how usage is added up; days by default", "hour", "day", "month")
FROM: Final = Time("from", "only windows that end after this time")
TO: Final = Time("to", "only windows that begin before this time; now by default")
MODEL: Final = Parameter("model", "only of this model, as `<backend>/<model>`")
PRINCIPAL_ID: Final = Parameter("principal_id", "only of this principal")
OF_TENANT: Final = Parameter("tenant_id", "of this tenant; a platform admin may name any")
GROUP_BY: Final = Parameter(
    "group_by",
    "told apart by these, comma separated: model, agent_id, principal_id, or none; "
    "by model and agent_id by default",
)
REQUEST_ID: Final = Parameter("request_id", "the call's request id", "path")
REQUEST_ID_ASKED: Final = Parameter("request_id", "the call's request id; needed")
BACK: Final[dict[Window, int]] = {
    "hour": 24 * 3_600_000,
    "day": 30 * 86_400_000,
    "month": 365 * 86_400_000,
}
OPENAI_IDS: Final = ("chatcmpl-", "resp_")
LOOKS: Final = 6
LOOK_S: Final = 0.15


async def list_usage(request: Request) -> Answer:
    """Return what was used, by window; models' figures and, beside them, the runs of agents.

    Runs and tool calls have an agent but no one model: told apart by model, they stand in rows
    without one. It may lag by a second.
    """
    call = call_of(request.scope)
    filters = _filters(request, time.time_ns() // 1_000_000)
    page = await parts_of(request).reads.get_usage(
        _tenant(request, call.caller), filters, LIMIT.read(request) or 0, CURSOR.raw(request)
    )
    content: dict[str, Any] = {"usage": [usage_view(filters.window, row) for row in page.rows]}
    if page.next_cursor is not None:
        content["next_cursor"] = page.next_cursor
    return json_answer(content, call.correlation_id)


async def get_model_call(request: Request) -> Answer:
    """Return what became of one model call: policy, route, price, budget, usage; no content.

    Any id can be asked for; `.` and `..`, which clients take out of a path, by
    `find_model_call`. The id may be the request's, or that of an answer of the
    OpenAI-compatible doors. Its record comes a moment after its answer: a call that is not
    there yet is waited for, up to a second.
    """
    return await _explained(request, REQUEST_ID, request.path_params["request_id"])


async def find_model_call(request: Request) -> Answer:
    """Return what became of the model call with the id in the query; as `get_model_call`."""
    return await _explained(request, REQUEST_ID_ASKED, REQUEST_ID_ASKED.raw(request) or "")


async def _explained(request: Request, where: Parameter, request_id: str) -> Answer:
    call = call_of(request.scope)
    if not FREE_ID.fullmatch(request_id):
        raise where.misfit("not 1-256 printable characters")
    found = await _look(parts_of(request), call.caller.tenant_id, _own_ids(request_id))
    return json_answer({"model_call": found}, call.correlation_id)


def _own_ids(request_id: str) -> list[str]:
    """Return the ids that may be meant: OpenAI's clients are shown ours in another dress."""
    found = [request_id]
    for prefix in OPENAI_IDS:
        if request_id.startswith(prefix):
            found.append(f"req_{request_id.removeprefix(prefix)}")
    return found


async def _look(parts: Parts, tenant_id: str, request_ids: list[str]) -> dict[str, Any]:
    for look in range(LOOKS):
        if look:
            await asyncio.sleep(LOOK_S)
        for request_id in request_ids:
            if (found := await parts.reads.get_model_call(tenant_id, request_id)) is not None:
                return found
    raise NotFoundError("no such model call, or one that is too old to be explained")


def usage_view(window: Window, row: UsageRow) -> dict[str, Any]:
    """Return one row as the contract has it; what is not told apart is null."""
    return {
        "window": window,
        "from": rfc3339(row.start),
        "to": rfc3339(window_end(window, row.start) or row.start),
        "model": row.model or None,
        "agent_id": row.agent_id or None,
        "principal_id": row.principal_id or None,
        "runs": row.runs,
        "tool_calls": row.tool_calls,
        **model_figures(row),
    }


def model_figures(row: UsageRow) -> dict[str, Any]:
    """Return what a row says of model calls."""
    return {
        "model_calls": row.calls,
        "errors": row.errors,
        "blocked": row.blocked,
        "refused": row.refused,
        "interrupted": row.interrupted,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cost_usd": row.micro_usd / MICRO,
    }


def _tenant(request: Request, caller: AuthContext) -> str:
    named = OF_TENANT.raw(request)
    if named is None or named == caller.tenant_id:
        return caller.tenant_id
    if not is_platform_admin(caller):
        raise HiddenError(named)
    return named


def _filters(request: Request, now_ms: int) -> UsageFilters:
    window: Window = WINDOW.read(request) or "day"  # type: ignore[assignment]  # one of its words
    until = TO.read(request)
    until = now_ms if until is None else until
    since = FROM.read(request)
    since = max(0, until - BACK[window]) if since is None else since
    if since > until:
        raise FROM.misfit("behind `to`")
    start = window_start(window, until)
    return UsageFilters(
        window=window,
        since=window_start(window, since),
        until=start if start == until else window_end(window, until) or until,
        model=MODEL.raw(request),
        agent_id=read_agent_filter(request),
        principal_id=PRINCIPAL_ID.raw(request),
        group_by=_group_by(request),
    )


def _group_by(request: Request) -> tuple[Dimension, ...]:
    text = GROUP_BY.raw(request)
    if text is None:
        return ("model", "agent_id")
    names = {name.strip() for name in text.split(",")} - {"", "none"}
    if unknown := names - set(DIMENSIONS):
        raise GROUP_BY.misfit(f"no {sorted(unknown)[0][:100]!r} to tell apart by")
    return tuple(name for name in DIMENSIONS if name in names)
