"""What a caller asks for when it starts a run, in the contract's shape."""

from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agentos.domain.agent.agent import ToolId
from agentos.domain.envelope import Readable, is_none
from agentos.domain.ids import FREE_ID_PATTERN

FreeId = Annotated[str, Field(pattern=FREE_ID_PATTERN)]
MAX_INPUT_BYTES = 256 * 1024
TIMEZONES = available_timezones()


def _fits(text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        raise ValueError("text is not valid Unicode") from exc
    if size > MAX_INPUT_BYTES:
        raise ValueError("text is over 256 KiB")
    return text


def _timezone(name: str) -> str:
    if name not in TIMEZONES:
        raise ValueError("not an IANA time zone")
    return name


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class RunInput(_Part):
    """The user's text, up to 256 KiB of UTF-8."""

    type: Literal["text"]
    text: Annotated[str, AfterValidator(_fits)]


class RunContext(_Part):
    """Where the run comes from."""

    locale: str = Field(default="en-US", min_length=1, max_length=64)
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"
    channel: str | None = Field(default=None, max_length=256, exclude_if=is_none)
    user_id: FreeId | None = Field(default=None, exclude_if=is_none)
    session_id: FreeId | None = Field(default=None, exclude_if=is_none)
    labels: Annotated[dict[str, str] | None, Readable] = Field(
        default=None, max_length=64, exclude_if=is_none
    )
    metadata: Annotated[dict[str, Any] | None, Readable] = Field(default=None, exclude_if=is_none)


class Tooling(_Part):
    """Which of the agent's tools this run may call; the denied win."""

    tool_allowlist: tuple[ToolId, ...] | None = Field(
        default=None, max_length=256, exclude_if=is_none
    )
    tool_denymap: tuple[ToolId, ...] | None = Field(
        default=None, max_length=256, exclude_if=is_none
    )


class RunOptions(_Part):
    """How the run is executed. Times are milliseconds."""

    priority: Literal["low", "normal", "high"] = "normal"
    timeout_ms: int = Field(default=180_000, ge=1, le=2_592_000_000)
    max_steps: int = Field(default=30, ge=1, le=1_000_000)
    stream_events: bool = True
    dry_run: bool = False


class RunRequest(_Part):
    """The body of `POST /v1/agents/{agent_id}/runs`."""

    input: RunInput
    context: RunContext = RunContext()
    tooling: Tooling = Tooling()
    run_options: RunOptions = RunOptions()
    idempotency_key: FreeId | None = Field(default=None, exclude_if=is_none)
