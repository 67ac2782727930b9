"""Every route of the orchestrator on one page."""

from dataclasses import replace
from typing import Final

from fastapi import FastAPI

from agentos.gateways.http.routing import Described, Endpoint, add
from agentos.gateways.orchestrator import (
    agents,
    approvals,
    audit,
    audit_events,
    run_events,
    runs,
    tenant_events,
    usage,
)
from agentos.gateways.orchestrator import queries as q
from agentos.gateways.orchestrator import schemas as s
from agentos.gateways.orchestrator.admin_routes import ADMIN
from agentos.gateways.orchestrator.policy_routes import POLICIES

Table = tuple[tuple[str, str, Endpoint, Described], ...]
LIST: Final = (400, 401, 403, 503)
AUDITED: Final = (400, 401, 403, 404, 500, 503, 504)
READ: Final = (400, 401, 403, 404, 503)
STREAM: Final = (400, 401, 403, 404, 410, 503)
ELSEWHERE: Final = 502
"""What else a run that a peer executes may be answered: the peer cannot be asked."""
WRITE: Final = (400, 401, 403, 404, 409, 413, 429, 500, 503, 504)
SSE: Final = "text/event-stream"
EVENTS: Final = {200: SSE}
AGENT: Final = {200: s.AgentAnswer}
RUN: Final = {200: s.RunAnswer}
KNOWN_AGENT: Final = (q.AGENT_ID, q.IDEMPOTENCY_KEY)


def add_routes(app: FastAPI) -> None:
    """Add all routes, the busiest first: a path is looked for in this order."""
    tables = (
        ("runs", RUNS),
        ("events", STREAMS),
        ("agents", AGENTS),
        ("usage", USAGE),
        ("admin", ADMIN),
        ("policies", POLICIES),
        ("audit", AUDIT),
    )
    for tag, table in tables:
        for method, path, endpoint, about in table:
            add(app, method, path, endpoint, replace(about, tag=tag))


def add_peer_routes(app: FastAPI) -> None:
    """Add the routes that peers call: over their own door, which asks for certificates."""
    for method, path, endpoint, about in (*RUNS, *STREAMS):
        if (method, path) in FOR_PEERS:
            add(app, method, path, endpoint, replace(about, tag="runs"))


FOR_PEERS: Final = frozenset(
    {
        ("POST", "/v1/agents/{agent_id}/runs"),
        ("GET", "/v1/runs/{run_id}"),
        ("GET", "/v1/runs/{run_id}/events"),
        ("POST", "/v1/runs/{run_id}:cancel"),
        ("GET", "/v1/runs/{run_id}/approvals"),
        ("POST", "/v1/runs/{run_id}/approvals/{approval_id}"),
    }
)
AUDIT: Final[Table] = (
    (
        "GET",
        "/v1/audit",
        audit.list_audit_records,
        Described("List audit records", {200: s.AuditAnswer}, audit.PARAMETERS, errors=AUDITED),
    ),
    (
        "GET",
        "/v1/audit/events",
        audit_events.stream_audit_events,
        Described(
            "Stream audit records",
            EVENTS,
            audit_events.PARAMETERS,
            errors=(400, 401, 403, 404, 410, 500, 503, 504),
        ),
    ),
)
AGENTS: Final[Table] = (
    (
        "GET",
        "/v1/agents",
        agents.list_agents,
        Described("List agents", {200: s.AgentsAnswer}, (q.LIMIT, q.CURSOR), errors=LIST),
    ),
    (
        "POST",
        "/v1/agents",
        agents.register_agent,
        Described(
            "Register an agent",
            {201: s.AgentAnswer},
            (q.IDEMPOTENCY_KEY,),
            s.AgentRegister,
            errors=WRITE,
        ),
    ),
    (
        "GET",
        "/v1/agents/{agent_id}",
        agents.get_agent,
        Described("Get an agent", AGENT, (q.AGENT_ID,), errors=READ),
    ),
    (
        "PUT",
        "/v1/agents/{agent_id}",
        agents.update_agent,
        Described("Make a new version", AGENT, KNOWN_AGENT, s.AgentUpdate, errors=WRITE),
    ),
    (
        "POST",
        "/v1/agents/{agent_id}:deprecate",
        agents.deprecate_agent,
        Described(
            "Deprecate an agent",
            AGENT,
            KNOWN_AGENT,
            s.AgentDeprecate,
            body_required=False,
            errors=WRITE,
        ),
    ),
)

RUNS: Final[Table] = (
    (
        "POST",
        "/v1/agents/{agent_id}/runs",
        runs.create_run,
        Described(
            "Start a run",
            {201: s.RunAnswer, 200: s.RunAnswer},
            (q.AGENT_ID,),
            s.RunCreate,
            errors=WRITE,
        ),
    ),
    (
        "GET",
        "/v1/runs",
        runs.list_runs,
        Described(
            "List runs",
            {200: s.RunsAnswer},
            (q.STATUS, q.OF_AGENT, q.CREATED_AFTER, q.CREATED_BEFORE, q.LIMIT, q.CURSOR),
            errors=LIST,
        ),
    ),
    (
        "GET",
        "/v1/runs/{run_id}",
        runs.get_run,
        Described("Get a run", RUN, (q.RUN_ID,), errors=READ),
    ),
    (
        "GET",
        "/v1/runs/{run_id}/wait",
        runs.wait_for_run,
        Described("Wait for a run", RUN, (q.RUN_ID, q.TIMEOUT_MS), errors=READ),
    ),
    (
        "POST",
        "/v1/runs/{run_id}:cancel",
        runs.cancel_run,
        Described(
            "Cancel a run",
            RUN,
            (q.RUN_ID, q.IDEMPOTENCY_KEY),
            s.RunCancel,
            body_required=False,
            errors=(*WRITE, ELSEWHERE),
        ),
    ),
    (
        "GET",
        "/v1/runs/{run_id}/approvals",
        approvals.list_run_approvals,
        Described("List a run's approvals", {200: s.ApprovalsAnswer}, (q.RUN_ID,), errors=READ),
    ),
    (
        "POST",
        "/v1/runs/{run_id}/approvals/{approval_id}",
        approvals.decide_approval,
        Described(
            "Approve or reject a tool call",
            {200: s.DecisionAnswer},
            (q.RUN_ID, q.APPROVAL_ID, q.IDEMPOTENCY_KEY),
            s.ApprovalDecide,
            errors=WRITE,
        ),
    ),
    (
        "POST",
        "/v1/runs/{run_id}:fork",
        runs.fork_run,
        Described(
            "Start a run with the recorded past of another",
            {201: s.RunAnswer, 200: s.RunAnswer},
            (q.RUN_ID, q.IDEMPOTENCY_KEY),
            s.RunFork,
            errors=WRITE,
        ),
    ),
)

STREAMS: Final[Table] = (
    (
        "POST",
        "/v1/agents/{agent_id}/runs:stream",
        run_events.create_and_stream_run,
        Described("Start a run and stream it", EVENTS, (q.AGENT_ID,), s.RunCreate, errors=WRITE),
    ),
    (
        "GET",
        "/v1/runs/{run_id}/events",
        run_events.stream_run_events,
        Described(
            "Stream a run's events",
            {200: SSE, 204: ""},
            (q.RUN_ID, q.AFTER_SEQUENCE, q.FROM_SEQUENCE, q.LAST_EVENT_ID, q.TYPES, q.DELTAS),
            errors=(*STREAM, ELSEWHERE),
        ),
    ),
    (
        "GET",
        "/v1/events",
        tenant_events.stream_tenant_events,
        Described(
            "Stream a tenant's events",
            EVENTS,
            (q.AFTER, q.LAST_EVENT_ID, q.TYPES, q.OF_AGENT),
            errors=LIST,
        ),
    ),
)

USAGE: Final[Table] = (
    (
        "GET",
        "/v1/usage",
        usage.list_usage,
        Described(
            "Get usage by window",
            {200: s.UsageRowsAnswer},
            (
                usage.WINDOW,
                usage.FROM,
                usage.TO,
                usage.MODEL,
                q.OF_AGENT,
                usage.PRINCIPAL_ID,
                usage.GROUP_BY,
                usage.OF_TENANT,
                q.LIMIT,
                q.CURSOR,
            ),
            errors=READ,
        ),
    ),
    (
        "GET",
        "/v1/model-calls/{request_id:path}",
        usage.get_model_call,
        Described(
            "Explain a model call", {200: s.ModelCallAnswer}, (usage.REQUEST_ID,), errors=READ
        ),
    ),
    (
        "GET",
        "/v1/model-calls",
        usage.find_model_call,
        Described(
            "Explain a model call by any id",
            {200: s.ModelCallAnswer},
            (usage.REQUEST_ID_ASKED,),
            errors=READ,
        ),
    ),
)
