"""Which events have an audit record, and what it says: the whole table on one screen.

A record holds ids, counts and decisions. Nothing that a person, a model or a tool wrote is
ever copied into it: no input, output, message, argument or free text of a reason.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from agentos.domain.audit.chain import Entry, Meta, Outcome
from agentos.domain.auth import LONGEST_TEXT, SYSTEM_PRINCIPAL, Principal, shortened
from agentos.domain.envelope import NO_TRACE
from agentos.domain.log import Recorded

NO_TRACE_ID: Final = NO_TRACE[3:35]
Inner = Mapping[str, Any]
Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunSeen:
    """What the records of a run's events take from the run: who started it, and its digest."""

    principal: Principal
    correlation_id: str = ""
    agent_id: str = ""
    policy_context: Mapping[str, Any] | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Audited:
    """How the record of one type of event is made.

    `meta` names members of the payload to copy: texts, integers, true, false. `resource` names
    the member that is the record's resource; without it it is the aggregate's id.
    """

    action: str
    meta: Texts = ()
    resource: str = ""
    outcome: Callable[[Inner], Outcome] = lambda _: "allowed"
    reason: Callable[[Inner], str | None] = lambda _: None
    more: Callable[[Inner], Meta] = lambda _: {}
    ends_run: bool = False
    of_run: str = ""
    """The member that names the run where the event itself is not the run's."""
    by_member: bool = False
    """The principal is the one that the payload names in `by`."""


def _of_status(payload: Inner) -> Outcome:
    return "allowed" if payload["status"] in ("ok", "completed", "canceled") else "error"


def _begun(payload: Inner) -> Meta:
    fork, origin = payload.get("fork"), payload.get("origin_stack_id")
    past = {"forked_from": fork["run_id"], "from_step": fork["from_step"]} if fork else {}
    return past | ({"stack_id": origin} if origin else {})


def _of_tool(payload: Inner) -> Outcome:
    return "denied" if _code(payload) in REFUSED else _of_status(payload)


def _of_forward(payload: Inner) -> Outcome:
    return "denied" if _code(payload) in REFUSED else "error"


def _of_model(payload: Inner) -> Outcome:
    return "denied" if payload["status"] in ("blocked", "refused") else _of_status(payload)


def _code(payload: Inner) -> str | None:
    return (payload.get("error") or {}).get("code")


def _decided_by(policy: Inner) -> Meta:
    """Return the policy's version and the rules that decided, as its reasons name them."""
    reasons = policy.get("reasons") or ()
    named = [reason for reason in reasons if reason.startswith("pol_") and "@" in reason]
    rules = [reason for reason in reasons if reason not in named]
    found = {"policy": ",".join(named)[:LONGEST], "rules": ",".join(rules)[:LONGEST]}
    return {name: text for name, text in found.items() if text}


def _tokens(payload: Inner) -> Meta:
    usage, policy = payload["usage"], payload.get("policy") or {}
    route = payload.get("route") or {}
    return {
        "input_tokens": usage["input_tokens"],
        "output_tokens": usage["output_tokens"],
        "cost_micro_usd": round(payload["cost_usd"] * 1_000_000),
        "decision": policy.get("decision", "allowed"),
        "redactions": len(policy.get("redactions", ())),
        "catalog_version": route.get("catalog_version", 0),
        "count": payload.get("stands_for", 1),
        **_decided_by(policy),
    }


def _key(payload: Inner) -> Meta:
    grant = payload["grant"]
    return {"kind": grant["kind"], "of": grant["principal"]["principal_id"],
            "roles": ",".join(grant["roles"]), "scopes": len(grant["scopes"])}  # fmt: skip


def _agent(payload: Inner) -> Meta:
    return {"version": payload["definition"]["version"]}


def _plan(payload: Inner) -> Meta:
    return {"plan_tier": payload["profile"]["plan_tier"]}


def _steps(payload: Inner) -> Meta:
    return dict(payload["summary"])


LONGEST: Final = LONGEST_TEXT
"""Of any text in a record, in characters."""
REFUSED: Final = frozenset(
    {"forbidden", "policy_blocked", "rate_limited", "quota_exceeded", "unauthorized"}
    | {"tenant_disabled", "tenant_unknown", "tenant_mismatch", "approval_rejected"}
)
"""Codes of errors by which somebody said no, and nothing broke."""
CALL: Final = ("request_id", "operation", "model_ref", "backend", "model", "status", "latency_ms")
TOOL: Final = ("tool_call_id", "tool_id", "status", "duration_ms")
APPROVAL: Final = ("tool_call_id", "approval_id")
GONE: Final = ("kind", "items", "commits", "before", "position", "archive", "digest")

AUDITED: Final[Mapping[str, Audited]] = {
    "agentos.run.created": Audited("runs.create", ("agent_version",), more=_begun),
    "agentos.run.cancel_requested": Audited("runs.cancel", by_member=True),
    "agentos.run.completed": Audited("runs.end", ("status",), more=_steps, ends_run=True),
    "agentos.run.failed": Audited(
        "runs.end", ("status",), outcome=_of_status, reason=_code, more=_steps, ends_run=True
    ),
    "agentos.run.canceled": Audited("runs.end", ("status", "by"), more=_steps, ends_run=True),
    "agentos.tool.call.completed": Audited(
        "tools.invoke", TOOL, "tool_id", outcome=_of_tool, reason=_code
    ),
    "agentos.tool.call.approved": Audited("tools.approve", APPROVAL, by_member=True),
    "agentos.tool.call.rejected": Audited(
        "tools.approve", APPROVAL, outcome=lambda _: "denied", by_member=True
    ),
    "agentos.usage.recorded": Audited(
        "models.invoke", CALL, "model_ref", outcome=_of_model, reason=_code, more=_tokens
    ),
    "agentos.tenant.created": Audited("tenants.create", ("partition",), more=_plan),
    "agentos.tenant.updated": Audited("tenants.update", more=_plan),
    "agentos.tenant.enabled": Audited("tenants.enable"),
    "agentos.tenant.disabled": Audited("tenants.disable", ("runs",)),
    "agentos.tenant.deleted": Audited("tenants.delete"),
    "agentos.subject.erased": Audited("subjects.erase", ("generation",)),
    "agentos.key.issued": Audited("keys.issue", more=_key),
    "agentos.key.rotated": Audited("keys.rotate"),
    "agentos.key.revoked": Audited("keys.revoke"),
    "agentos.agent.registered": Audited("agents.register", more=_agent),
    "agentos.agent.updated": Audited("agents.update", more=_agent),
    "agentos.agent.deprecated": Audited("agents.deprecate"),
    "agentos.policy.published": Audited("policies.publish", ("version",)),
    "agentos.policy.activated": Audited("policies.activate", ("version",)),
    "agentos.retention.applied": Audited("retention.apply", GONE, "plan_id"),
    "agentos.catalog.published": Audited("config.change", ("version",)),
    "agentos.federation.forward.requested": Audited(
        "federation.runs.forward", ("stack_id", "agent_id")
    ),
    "agentos.federation.forward.accepted": Audited(
        "federation.runs.forward", ("stack_id", "status"), of_run="remote_run_id"
    ),
    "agentos.federation.forward.failed": Audited(
        "federation.runs.forward", ("stack_id",), outcome=_of_forward, reason=_code
    ),
    "agentos.federation.events.ingested": Audited(
        "federation.events.ingest", ("source_stack_id", "run_id", "accepted", "rejected")
    ),
    "agentos.federation.peer.added": Audited("config.change", ("stack_id",)),
    "agentos.federation.peer.removed": Audited("config.change", ("stack_id",)),
}

NOT_AUDITED: Final[Mapping[str, str]] = {
    "agentos.run.started": "an attempt of the node's own; the run's creation is recorded",
    "agentos.run.step.started": "a step's call is recorded when it ends",
    "agentos.run.step.completed": "the call of the step has its own record",
    "agentos.model.requested": "the call is recorded when it ends",
    "agentos.model.completed": "its usage event is the record of every model call",
    "agentos.tool.call.requested": "the call is recorded when it ends",
    "agentos.tool.call.approval_required": "the decision on it is recorded",
    "agentos.quota.reserved": "counting; what it is counted for is recorded",
    "agentos.quota.settled": "counting",
    "agentos.quota.released": "counting",
    "agentos.quota.expired": "counting",
    "agentos.quota.balanced": "counting",
    "agentos.retention.planned": "nothing has gone yet; that it went is recorded",
    "agentos.retention.begun": "that it went is recorded",
    "agentos.federation.run.linked": "follows from a forward that is recorded",
    "agentos.federation.events.copied": "a copy of events that their own node records",
    "agentos.federation.gap.found": "the state of a copy",
    "agentos.federation.gap.filled": "the state of a copy",
    "agentos.federation.run.ended": "the end of a copy; the run's own node records it",
    "agentos.federation.peer.seen": "what the node observes, decided by nobody",
    "agentos.federation.peer.lost": "what the node observes, decided by nobody",
    "agentos.subject.erasure_completed": "the end of an erasure that is recorded",
    "agentos.audit.recorded": "the record itself",
    "agentos.audit.checkpointed": "says of the records that they are these",
    "agentos.audit.key_published": "its signer writes a record of its own, secrets.access",
}

TAKES_RUN: Final = frozenset(
    name for name in AUDITED if name.startswith(("agentos.run.", "agentos.tool."))
)


def entry_of(record: Recorded, inner: Inner, run: RunSeen | None = None) -> Entry:
    """Return the record's entry of one event; `run` for the events of runs.

    No text of it is longer than `LONGEST`, whatever the event holds.
    """
    rule, payload = AUDITED[inner["type"]], inner["payload"]
    run_id = inner.get("run_id") or payload.get(rule.of_run or "run_id")
    return Entry(
        principal=_principal(rule, inner, run),
        action=rule.action,
        resource=str(payload[rule.resource])[:LONGEST]
        if rule.resource
        else record.ref.aggregate_id,
        outcome=rule.outcome(payload),
        cause=inner["event_id"],
        correlation_id=_correlation(record, payload, run)[:LONGEST],
        request_id=payload.get("request_id", "")[:LONGEST],
        reason=shortened(rule.reason(payload)),
        run_id=run_id,
        policy_context=shortened(run.policy_context if run else payload.get("policy_context")),
        meta=shortened(_meta(rule, record, inner, run)),
    )


def _principal(rule: Audited, inner: Inner, run: RunSeen | None) -> Principal:
    who = _who(rule, inner, run)
    if len(who.display_name or "") <= LONGEST and len(who.principal_id) <= LONGEST:
        return who
    return Principal.model_validate(shortened(who.model_dump()))


def _who(rule: Audited, inner: Inner, run: RunSeen | None) -> Principal:
    if rule.by_member:
        by = inner["payload"]["by"]
        kind = "service" if by.startswith("svc_") else "user"
        return Principal(principal_id=by, principal_type=cast("Any", kind))
    if (principal := inner.get("principal")) is not None:
        return Principal.model_validate(principal)
    return run.principal if run else SYSTEM_PRINCIPAL


def _correlation(record: Recorded, payload: Inner, run: RunSeen | None) -> str:
    own = record.correlation_id or payload.get("correlation_id")
    return own or (run.correlation_id if run else "")


def _meta(rule: Audited, record: Recorded, inner: Inner, run: RunSeen | None) -> Meta:
    payload = inner["payload"]
    meta: dict[str, int | str | bool | None] = {
        name: payload[name] for name in rule.meta if payload.get(name) is not None
    }
    meta |= rule.more(payload)
    if (trace_id := inner["trace"]["traceparent"][3:35]) != NO_TRACE_ID:
        meta["trace_id"] = trace_id
    if record.by_tenant:
        meta["by_tenant"] = record.by_tenant
    if run is not None and run.agent_id:
        meta["agent_id"] = run.agent_id
    if rule.ends_run and run is not None:
        meta["digest"] = run.digest
    return meta
