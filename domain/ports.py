"""What the domain needs of the world. Each port has one contract suite in tests/contracts.

Every call names its tenant: by a `StreamRef`, or by the auth context of who asks.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, Protocol

from agentos.domain.auth import AuthContext
from agentos.domain.log import Commit, Recorded, TailBatch
from agentos.domain.subjects import StreamRef
from agentos.domain.values import value

ToolNature = Literal["idempotent", "check", "at_most_once"]


class Clock(Protocol):
    """The time of day."""

    def now_ms(self) -> int:
        """Return the milliseconds since the epoch."""
        ...


class NewId(Protocol):
    """A source of new ids."""

    def __call__(self, prefix: str) -> str:
        """Return a new id `<prefix>_<26 Crockford characters>`."""
        ...


class EventLog(Protocol):
    """One partition of the append-only log: the only truth.

    Positions are the log's own, ascending over the whole partition, not dense per aggregate.
    Whatever cannot be reached raises `DependencyUnavailableError` with `dependency="nats"`.
    """

    async def append(self, commit: Commit, *, expected: int) -> int:
        """Write `commit` if the aggregate's last position is `expected` (0: it has none).

        Returns the commit's position once it is durable. The very same commit sent again
        returns the same position. Raises `AppendConflictError` when another writer was
        first, `DependencyUnavailableError` when it is not known whether it was written.
        """
        ...

    async def last(self, ref: StreamRef) -> Recorded | None:
        """Return the aggregate's last commit, or `None` if it has none."""
        ...

    async def last_many(self, refs: Sequence[StreamRef]) -> dict[StreamRef, Recorded]:
        """Return the last commits of those aggregates that have one."""
        ...

    async def last_of_kind(self, kind: str, tenant_id: str | None = None) -> list[Recorded]:
        """Return the last commit of every aggregate of a kind, of one tenant or of all."""
        ...

    async def read(self, ref: StreamRef, *, after: int = 0) -> list[Recorded]:
        """Return the aggregate's commits behind position `after`, oldest first."""
        ...

    def tail(
        self,
        *,
        after: int,
        kinds: Sequence[str] = (),
        tenant_id: str | None = None,
        headers_only: bool = False,
    ) -> AsyncIterator[TailBatch]:
        """Read everything behind position `after`, then go on live, without gap or repeat.

        Restricted to `kinds` and to one tenant where given. The first batch comes at once,
        empty when nothing was waiting; a later one may be empty too. With
        `headers_only` the bodies are empty. It survives a restart of the broker. Raises
        `DependencyUnavailableError` when the log is gone. Close it with `aclose()`.
        """
        ...

    async def head(self) -> int:
        """Return the position of the partition's last commit, 0 when it is empty."""
        ...

    async def purge(self, ref: StreamRef, *, through: int) -> None:
        """Remove the aggregate's commits at or before position `through`, for ever.

        Positions of other commits stay as they are. Repeated it removes nothing more. Where all
        commits go, the aggregate is as one that never was: expected position 0. Retention alone
        calls it, once the log says that it does.
        """
        ...

    async def start(self) -> int:
        """Return the position behind which the partition's commits begin.

        That is 0, or where another log ended that this one was filled from: what was there at
        or before it is not here under that position.
        """
        ...


class CommandBus(Protocol):
    """Sends commands to the handlers and brings back their answer."""

    async def send(
        self, name: str, auth: AuthContext, command: Mapping[str, Any], *, timeout: float = 10.0
    ) -> dict[str, Any]:
        """Send command `name` (`run.create` …) and return the handler's answer.

        Raises the `AgentOSError` that the handler answered; `DependencyUnavailableError`
        (`dependency="handlers"`) when nobody listens; `TimedOutError` after `timeout` seconds.
        """
        ...


@value
class WorkItem:
    """A run that wants an executor: where its log stood, and the records up to there.

    `records` may be empty: then the executor folds the run from the log.
    """

    ref: StreamRef
    position: int
    records: tuple[Recorded, ...] = ()
    token: Any = field(default=None, compare=False)


class RunQueue(Protocol):
    """Runs that wait for an executor: a cache of the log that may be lost at any time."""

    async def put(self, item: WorkItem) -> None:
        """Offer a run; the same run at the same position offered twice is kept once."""
        ...

    async def take(self, limit: int, timeout: float) -> list[WorkItem]:
        """Take up to `limit` items, waiting at most `timeout` seconds for the first.

        An item that is not `done` within some seconds is given to another executor.
        """
        ...

    async def done(self, item: WorkItem) -> None:
        """Strike the item off: the log says by now who executes the run."""
        ...

    async def size(self) -> int:
        """Return how many items wait or are in hand."""
        ...


@value
class ToolSpec:
    """A tool as a model sees it, and how a call without a result is settled after a crash.

    `idempotent`: called again with the same idempotency key. `check`: the tool is asked.
    `at_most_once`: never called again, the run fails with `interrupted`.
    """

    tool_id: str
    description: str
    input_schema: Mapping[str, Any]
    nature: ToolNature
    timeout_ms: int = 30_000


@value
class ToolCall:
    """One call of a tool; `idempotency_key` is the same for every attempt of this call."""

    tool_call_id: str
    tool_id: str
    arguments: Mapping[str, Any]
    run_id: str
    timeout_ms: int

    @property
    def idempotency_key(self) -> str:
        """The key a tool's own service sees, equal on every attempt."""
        return self.tool_call_id


class ToolPort(Protocol):
    """The tools that an agent may call, whatever they are made of."""

    def spec(self, tool_id: str) -> ToolSpec | None:
        """Return what is known of a tool, `None` if there is no such tool."""
        ...

    async def call(self, auth: AuthContext, call: ToolCall) -> Any:
        """Make the call and return its JSON output.

        Raises `AgentOSError`: `invalid_request` for arguments that do not fit, `timeout`,
        `tool_failed` … Cancellation stops the call in flight and closes its connections.
        """
        ...

    async def check(self, auth: AuthContext, call: ToolCall) -> Any:
        """Ask a `check` tool whether that call was made; its output, or `None` if it was not."""
        ...


@value
class RequestedToolCall:
    """A tool call inside a model's answer; its id is unique, and the same if asked again."""

    tool_call_id: str
    tool_id: str
    name: str
    arguments: Mapping[str, Any]
    policy: Mapping[str, Any] | None = None
    """`{decision: blocked | approval_required, reasons}` where policy does not let it pass."""


@value
class ChatMessage:
    """One message of a conversation, in the canonical form of the model contract."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_call_id: str | None = None
    tool_calls: tuple[RequestedToolCall, ...] = ()
    name: str | None = None


@value
class ToolOffer:
    """A tool that a model may ask for: `name` is what the caller calls it.

    `tool_id` is the same as the name where the tool is the caller's own (an OpenAI client's).
    """

    tool_id: str
    name: str
    description: str
    input_schema: Mapping[str, Any]


@value
class Requirements:
    """What a caller asks of the route: the whole call's time and cost, and the context's size."""

    max_latency_ms: int | None = None
    max_cost_usd: float | None = None
    min_context_tokens: int | None = None


@value
class CallOrigin:
    """On behalf of which run the runtime calls; `is_first`: nobody asked under this id before.

    `sealed` names the key of the run's content, where it has one; `traceparent` is the span of
    the step that calls.
    """

    agent_id: str
    run_id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    is_first: bool = False
    sealed: str = ""
    traceparent: str = ""


@value
class ModelRequest:
    """One chat call. `request_id` is the same for every attempt of this call.

    `model_ref` is a concrete id, `tier:<tier>` or `<backend>/<model>`. `tool_choice` is `auto`,
    `none`, `required` or an offered tool's name. `response_format` is OpenAI's
    (`{"type": "json_schema", …}`), handed to backends that know it.
    """

    request_id: str
    model_ref: str
    messages: Sequence[ChatMessage]
    tools: Sequence[ToolOffer] = ()
    max_output_tokens: int | None = None
    timeout_ms: int = 120_000
    tool_choice: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    response_format: Mapping[str, Any] | None = None
    requirements: Requirements | None = None
    origin: CallOrigin | None = None


@value
class Usage:
    """Tokens of one call."""

    input_tokens: int
    output_tokens: int

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@value
class ModelAnswer:
    """A model's whole answer. `backend` and `model` name who gave it.

    `gates` is the contract's `policy_outcome` of a governed call, `node` where it was made.
    """

    content: str
    tool_calls: tuple[RequestedToolCall, ...]
    usage: Usage
    backend: str
    model: str
    cost_usd: float = 0.0
    fallback_used: bool = False
    finish_reason: FinishReason = "stop"
    gates: Mapping[str, Any] | None = None
    node: str = ""


@value
class EmbedRequest:
    """One embedding call of one or more texts."""

    request_id: str
    model_ref: str
    texts: Sequence[str]
    timeout_ms: int = 120_000
    dimensions: int | None = None
    requirements: Requirements | None = None


@value
class EmbedAnswer:
    """A vector for each text, in their order. `backend` and `model` name who gave them."""

    vectors: Sequence[Sequence[float]]
    usage: Usage
    backend: str
    model: str


OnDelta = Callable[[str], None]


class ModelPort(Protocol):
    """Governed access to models."""

    async def invoke(
        self, auth: AuthContext, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Make one chat call; `on_delta` gets each piece of text as it is streamed.

        Raises `AgentOSError`: `invalid_request` for an unknown model, `provider_error`,
        `dependency_unavailable`, `timeout` … Cancellation stops the call in flight.
        """
        ...


class ModelBackend(Protocol):
    """One server (or the builtin code) that has models, called by their bare names.

    A backend makes one attempt: retries and fallback are the router's. Errors say in
    `details.stage` how far the call came: `connect` (the server did not get it), `answer` (it
    was refused as a whole) or `stream` (it broke off; `details.usage` has what is known to be
    used, `{input_tokens, output_tokens}`); `details.retry_after_ms` where the server named it.
    `InvalidRequestError` is for what another attempt cannot mend. Cancellation closes the
    connection. No key or header is ever in an error, a log or a `repr`.
    """

    async def chat(
        self, auth: AuthContext, model: str, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Make one chat call within `request.timeout_ms`; `on_delta` gets the text in pieces."""
        ...

    async def embed(self, auth: AuthContext, model: str, request: EmbedRequest) -> EmbedAnswer:
        """Make one embedding call; `InvalidRequestError` where the backend has no such thing."""
        ...

    async def probe(self) -> None:
        """Return if the server answers; costs nothing. Raises `DependencyUnavailableError`."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


class Signals(Protocol):
    """Short-lived messages between processes: deltas, heartbeats, notices. Any may be lost."""

    async def publish(self, subject: str, data: bytes) -> None:
        """Send to whoever listens now; never waits for the broker."""
        ...

    async def subscribe(
        self, subject: str, on_message: Callable[[str, bytes], None]
    ) -> Callable[[], Awaitable[None]]:
        """Call `on_message(subject, data)` for each message; returns how to stop it.

        The subscription outlives a restart of the broker.
        """
        ...


KeyState = Literal["alive", "destroyed", "none"]


class ContentKeys(Protocol):
    """The keys that data subjects' content is sealed with: kept beside the log, never in it.

    A key is named once for ever: one that was destroyed is never made again. Whatever cannot be
    reached raises `DependencyUnavailableError`.
    """

    async def make(self, tenant_id: str, key_id: str) -> None:
        """See to it that the key is there; `SubjectErasedError` for one that was destroyed."""
        ...

    async def state(self, tenant_id: str, key_id: str) -> KeyState:
        """Return whether the key is there, was destroyed, or never was there."""
        ...

    async def seal(self, tenant_id: str, key_id: str, plain: bytes, where: str) -> bytes:
        """Return bytes that open only with this key and place; `SubjectErasedError`."""
        ...

    async def unseal(self, tenant_id: str, key_id: str, box: bytes, where: str) -> bytes:
        """Return the plain bytes; `SubjectErasedError`, `ValueError` for what does not open."""
        ...

    async def destroy(self, tenant_id: str, key_id: str) -> bool:
        """Destroy the key, and let it be made never again; whether it was there.

        When it returns, nothing of the key is stored and no process uses it. Repeatable.
        """
        ...


class Contents(Protocol):
    """Opens what is sealed, where the key is there, for whoever may read it."""

    @property
    def stored(self) -> EventLog:
        """The log as it stands, sealed."""
        ...

    async def open(self, record: Recorded) -> Recorded:
        """Return a commit with its content opened, or as it is shown without its key."""
        ...

    async def open_view(self, tenant_id: str, view: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a `Run` object in the same way; one that is not sealed is returned as it is."""
        ...
