"""Every subject of the broker, built and parsed here and nowhere else.

Ids that become part of a subject match `ids.NAMED_ID`, so no dot, wildcard or space of a
caller ever reaches the broker.
"""

from typing import Final, NamedTuple

from agentos.domain.ids import NAMED_ID

LOG: Final = "log"
WORK: Final = "work"


class StreamRef(NamedTuple):
    """One aggregate's stream of events: its tenant, kind (`run`, `quota` …) and id."""

    tenant_id: str
    kind: str
    aggregate_id: str


def _token(text: str) -> str:
    if not NAMED_ID.match(text):
        raise ValueError(f"not fit for a subject: {text!r}")
    return text


def stream_name(partition: int) -> str:
    """Return the JetStream stream of a partition of the log."""
    return f"LOG_{partition}"


def partition_subjects(partition: int) -> str:
    """Return the wildcard of all subjects of a partition."""
    return f"{LOG}.{partition}.>"


def log_subject(partition: int, ref: StreamRef) -> str:
    """Return the subject of one aggregate; `ValueError` for an id that does not fit."""
    aggregate = ref.aggregate_id if ref.aggregate_id in SINGLETONS else _token(ref.aggregate_id)
    return f"{LOG}.{partition}.{_token(ref.tenant_id)}.{ref.kind}.{aggregate}"


def log_ref(subject: str) -> StreamRef:
    """Return whose events a log subject holds."""
    _, _, tenant_id, kind, aggregate_id = subject.split(".", 4)
    return StreamRef(tenant_id, kind, aggregate_id)


def log_filter(partition: int, tenant_id: str | None, kind: str | None) -> str:
    """Return the wildcard for one tenant's (or all) events of one kind (or all)."""
    tenant = "*" if tenant_id is None else _token(tenant_id)
    return f"{LOG}.{partition}.{tenant}.{kind or '*'}.>"


def tenant_filter(tenant_id: str, kind: str) -> str:
    """Return the wildcard of a tenant's events of a kind as its own subscribers see them."""
    return f"{LOG}.{_token(tenant_id)}.{kind}.>"


def command(name: str) -> str:
    """Return the request subject of a command (`run.create` …)."""
    return f"cmd.{name}"


def delta(tenant_id: str, run_id: str) -> str:
    """Return the core subject of a run's streamed text; never in the log."""
    return f"delta.{_token(tenant_id)}.{_token(run_id)}"


def heartbeat(service: str, worker_id: str) -> str:
    """Return the core subject on which one process says that it lives and what it holds."""
    return f"hb.{service}.{worker_id}"


def metrics(service: str, worker_id: str) -> str:
    """Return the core subject on which one process says its figures."""
    return f"metrics.{service}.{worker_id}"


def cancel_notice(run_id: str) -> str:
    """Return the core subject that asks a run's lease holder to look at its log at once."""
    return f"notice.cancel.{_token(run_id)}"


def budget_notice(tenant_id: str) -> str:
    """Return the core subject that asks gateways to give back a tenant's leased budget."""
    return f"notice.budget.{_token(tenant_id)}"


def work(tenant_id: str, run_id: str) -> str:
    """Return the work queue's subject of one run."""
    return f"{WORK}.{_token(tenant_id)}.{_token(run_id)}"


def model_answer(tenant_id: str, digest: str) -> str:
    """Return the subject under which the answer to one request id is kept for a while."""
    return f"{ANSWERS}.{_token(tenant_id)}.{digest}"


def content_key(tenant_id: str, key_id: str) -> str:
    """Return the subject under which a data subject's key is kept, wrapped."""
    return f"{CONTENT_KEYS}.{_token(tenant_id)}.{_token(key_id)}"


def call_body(tenant_id: str, digest: str) -> str:
    """Return the subject under which the sealed body of one direct model call is kept."""
    return f"{CALL_BODIES}.{_token(tenant_id)}.{digest}"


CALL_BODIES: Final = "bodies"
CALL_BODIES_STREAM: Final = "CALL_BODIES"
ALL_CALL_BODIES: Final = f"{CALL_BODIES}.>"
CONTENT_KEYS: Final = "ckeys"
CONTENT_KEYS_STREAM: Final = "CONTENT_KEYS"
ALL_CONTENT_KEYS: Final = f"{CONTENT_KEYS}.>"
ANSWERS: Final = "answers"
ANSWERS_STREAM: Final = "MODEL_ANSWERS"
ALL_ANSWERS: Final = f"{ANSWERS}.>"
SINGLETONS: Final = frozenset(
    {"runs", "models", "tools", "storage", "chain", "self", "checkpoints", "keys"}
)
ALL_HEARTBEATS: Final = "hb.>"
ALL_METRICS: Final = "metrics.>"
ALL_CANCEL_NOTICES: Final = "notice.cancel.*"
ALL_BUDGET_NOTICES: Final = "notice.budget.*"
ALL_WORK: Final = f"{WORK}.>"
WORK_STREAM: Final = "WORK"
HANDLERS_GROUP: Final = "handlers"
