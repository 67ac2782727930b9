"""A forwarded run as its origin has it: the intent before the call, the result after it."""

from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.auth import Principal, RecordedPolicyContext
from agentos.domain.envelope import Event, Payload, by_type, is_none
from agentos.domain.errors import ConflictError
from agentos.domain.ids import derived_id
from agentos.domain.run.events import ErrorInfo
from agentos.domain.subjects import StreamRef

KIND: Final = "federation"


class ForwardRequested(Payload):
    """A run is about to be started at a peer; `idempotency_key` is the one it gets there.

    The event's trace is the forward's span, which the run there is a part of; `parent_span_id`
    is what the forward is a part of.

    A failed forward that is asked for again begins another attempt, at the same peer.
    """

    TYPE: ClassVar = "agentos.federation.forward.requested"
    stack_id: str
    agent_id: str
    run_request: dict[str, Any]
    selector: dict[str, Any]
    idempotency_key: str
    principal: Principal
    scopes: list[str]
    policy_context: RecordedPolicyContext
    attempt: int
    correlation_id: str | None = Field(default=None, exclude_if=is_none)
    parent_span_id: str | None = Field(default=None, exclude_if=is_none)


class ForwardAccepted(Payload):
    """The peer has made the run; `status` is what it first answered."""

    TYPE: ClassVar = "agentos.federation.forward.accepted"
    stack_id: str
    remote_run_id: str
    remote_events_url: str
    status: str


class ForwardFailed(Payload):
    """The attempt came to nothing that is known of."""

    TYPE: ClassVar = "agentos.federation.forward.failed"
    stack_id: str
    error: ErrorInfo


class Forward(Aggregate):
    """One forward."""

    KIND: ClassVar = KIND
    PAYLOADS: ClassVar = by_type(ForwardRequested, ForwardAccepted, ForwardFailed)
    requested: ForwardRequested

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.status: Literal["requested", "accepted", "failed"] | None = None
        self.requested_at = 0
        self.traceparent = ""
        self.accepted: ForwardAccepted | None = None
        self.error: ErrorInfo | None = None

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        match event.payload:
            case ForwardRequested() as requested:
                self.status, self.error = "requested", None
                self.requested_at = self.requested_at or event.time
                self.traceparent = event.trace.traceparent
                self.requested = requested
            case ForwardAccepted() as accepted:
                self.status, self.accepted = "accepted", accepted
            case ForwardFailed() as failed:
                self.status, self.error = "failed", failed.error

    def request(self, wanted: ForwardRequested, at: Moment) -> list[Event]:
        """Write the intent; nothing when it is there or done, another attempt when it failed.

        The peer of the first attempt stays: it may have the run although no answer came.
        Raises `ConflictError` when the key stands for something else.
        """
        attempt = 1
        if self.status is not None:
            self._require_same(wanted)
            if self.status != "failed":
                return []
            attempt = self.requested.attempt + 1
            wanted = self.requested
        return [next_event(self, wanted.model_copy(update={"attempt": attempt}), at)]

    def _require_same(self, wanted: ForwardRequested) -> None:
        known = self.requested
        named = wanted.selector.get("stack_id")
        # What is erased cannot be compared any more: the key names the forward that it named.
        unread = {} if self.is_readable else {"input": None}
        ours, theirs = known.run_request | unread, wanted.run_request | unread
        if ours != theirs or known.agent_id != wanted.agent_id:
            raise ConflictError("the idempotency key was used for a different body")
        if named is not None and named != known.stack_id:
            raise ConflictError(
                "the idempotency key was used for another peer", stack_id=known.stack_id
            )

    def accept(self, remote_run_id: str, events_url: str, status: str, at: Moment) -> list[Event]:
        """Write the result; nothing when it is there. Raises `ConflictError` for another run."""
        if self.accepted is not None:
            if self.accepted.remote_run_id != remote_run_id:
                raise ConflictError("the forward has another run already")
            return []
        accepted = ForwardAccepted(
            stack_id=self.requested.stack_id,
            remote_run_id=remote_run_id,
            remote_events_url=events_url,
            status=status,
        )
        return [next_event(self, accepted, at)]

    def fail(self, error: ErrorInfo, at: Moment) -> list[Event]:
        """Write that the attempt failed; nothing when it has ended otherwise meanwhile."""
        if self.status != "requested":
            return []
        failed = ForwardFailed(stack_id=self.requested.stack_id, error=error)
        return [next_event(self, failed, at)]

    def view(self) -> dict[str, Any]:
        """Return what the federation door works with."""
        return {
            "forward_id": self.ref.aggregate_id,
            "tenant_id": self.ref.tenant_id,
            "status": self.status,
            "traceparent": self.traceparent,
            "requested": self.requested.model_dump(mode="json"),
            "accepted": None if self.accepted is None else self.accepted.model_dump(mode="json"),
            "error": None if self.error is None else self.error.model_dump(mode="json"),
        }


def forward_ref(tenant_id: str, forward_id: str) -> StreamRef:
    """Return a forward's stream."""
    return StreamRef(tenant_id, KIND, forward_id)


def keyed_forward_id(
    tenant_id: str, principal_id: str, agent_id: str, key: str, generation: int
) -> str:
    """Return the forward that an idempotency key names; past its time, the next generation."""
    return derived_id("fwd", tenant_id, principal_id, agent_id, key, str(generation))
