"""What one governed model call used, and what each gate made of it: ids, counts, decisions.

Nothing that a person or a model wrote is in here: no message, no text, no tool argument.
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.aggregate import Aggregate, FoldError, Moment
from agentos.domain.envelope import Event, Origin, Payload, by_type, is_none, read_line
from agentos.domain.log import Recorded
from agentos.domain.run.events import TokenUsage
from agentos.domain.subjects import StreamRef
from agentos.domain.times import to_ms

MOST: Final = 10**15
Status = Literal["ok", "error", "blocked", "refused", "interrupted"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class RedactedSpan(_Part):
    """Where something was redacted, and of what type; never the text itself."""

    type: str
    field: str
    start: int
    end: int


class PolicySaid(_Part):
    """The policy's decision; `findings` counts what was found, by direction and type."""

    decision: Literal["allowed", "blocked", "redacted"]
    reasons: tuple[str, ...] = ()
    redactions: tuple[RedactedSpan, ...] = ()
    findings: dict[str, dict[str, int]] = {}


class PriceUsed(_Part):
    """The price that the cost was reckoned with, in dollars for a million tokens."""

    catalog_version: int
    input_per_million: float
    output_per_million: float


class AttemptMade(_Part):
    """One try of a backend: `outcome` is `ok` or the error's code."""

    backend: str
    model: str
    outcome: str
    latency_ms: int = 0


class RouteChosen(_Part):
    """Which way the call took."""

    name: str
    catalog_version: int
    attempts: tuple[AttemptMade, ...] = ()
    fallback_used: bool = False
    canary: str | None = Field(default=None, exclude_if=is_none)


class BudgetHeld(_Part):
    """What was held of the tenant's budgets before the call, and what counts in the end."""

    reserved: dict[str, int]
    settled: dict[str, int]


class CallError(_Part):
    """Why there was no whole answer."""

    code: str
    message: str


class UsageRecorded(Payload):
    """A model call ended. Usage and cost are counted from these events only.

    `status`: `ok`; `error`, a backend failed; `blocked`, by policy; `refused`, by entitlement,
    rate or budget; `interrupted`, it broke off on the way (what is known to be used counts).
    `stands_for` says how many like refusals it speaks for. `ended_ms` is when (epoch ms, the
    gateway's clock), and `parent_span_id` what the call's span is a part of; logs of before have
    neither.
    """

    TYPE: ClassVar = "agentos.usage.recorded"
    request_id: str
    operation: Literal["chat", "embed"]
    model_ref: str
    backend: str = ""
    model: str = ""
    node: str = ""
    status: Status
    usage: TokenUsage = TokenUsage(input_tokens=0, output_tokens=0, total_tokens=0)
    cost_usd: float = Field(default=0.0, ge=0, le=1e9, allow_inf_nan=False)
    latency_ms: int = Field(default=0, ge=0, le=MOST)
    streamed: bool = False
    agent_id: str | None = Field(default=None, exclude_if=is_none)
    run_id: str | None = Field(default=None, exclude_if=is_none)
    policy: PolicySaid | None = Field(default=None, exclude_if=is_none)
    price: PriceUsed | None = Field(default=None, exclude_if=is_none)
    route: RouteChosen | None = Field(default=None, exclude_if=is_none)
    budget: BudgetHeld | None = Field(default=None, exclude_if=is_none)
    error: CallError | None = Field(default=None, exclude_if=is_none)
    stands_for: int | None = Field(default=None, exclude_if=is_none)
    ended_ms: int | None = Field(default=None, exclude_if=is_none)
    parent_span_id: str | None = Field(default=None, exclude_if=is_none)
    correlation_id: str = ""


class Usage(Aggregate):
    """A tenant's model usage. It only grows: its end is all that the next event needs."""

    KIND: ClassVar = "usage"
    PAYLOADS: ClassVar = by_type(UsageRecorded)

    def fold(self, records: Iterable[Recorded]) -> Self:
        """Fold commits; the first may stand anywhere, for only the end counts."""
        for record in records:
            if record.position <= self.position:
                continue
            if self.position and record.first_sequence != self.sequence + 1:
                raise FoldError(f"{self.ref}: {record.first_sequence} after {self.sequence}")
            if unknown := set(record.types) - self.PAYLOADS.keys():
                raise FoldError(f"unknown event type {', '.join(sorted(unknown))}")
            if record.types:
                self.sequence = record.last_sequence
                self.time = max(self.time, to_ms(read_line(record.lines()[-1])["time"]))
            self.position = record.position
        return self

    def apply(self, event: Event) -> None:
        """Evolve by one event: nothing is kept of it."""

    def record(self, calls: Sequence[tuple[UsageRecorded, Origin]], at: Moment) -> list[Event]:
        """Return the events of calls that ended, in their order; each has its own principal."""
        time = self.later(at.now_ms)
        return [
            Event(
                event_id=at.new_id("evt"),
                sequence=sequence,
                time=time,
                tenant_id=self.ref.tenant_id,
                trace=origin.trace,
                payload=payload,
                principal=origin.principal,
            )
            for sequence, (payload, origin) in enumerate(calls, start=self.sequence + 1)
        ]


def usage_ref(tenant_id: str) -> StreamRef:
    """Return where a tenant's model usage is."""
    return StreamRef(tenant_id, Usage.KIND, "models")
