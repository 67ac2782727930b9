"""What a tool is made of."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from agentos.domain.auth import AuthContext
from agentos.domain.ports import ToolCall, ToolNature, ToolSpec

ArgumentsT = TypeVar("ArgumentsT", bound="Arguments")


class Arguments(BaseModel):
    """The arguments of a tool; a name that is none of them goes back to the model as an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Tool(Generic[ArgumentsT]):
    """A tool: its description, its arguments, and the functions that do it.

    `run` gets who asks, the call and the validated arguments, and returns JSON-like output or
    raises an `AgentOSError`; it is cancelled at the call's time limit. `check`, for tools of
    that nature, returns the output of a call that was made, `None` if it was not.
    """

    spec: ToolSpec
    arguments: type[ArgumentsT]
    run: Callable[[AuthContext, ToolCall, ArgumentsT], Awaitable[Any]]
    check: Callable[[AuthContext, ToolCall, ArgumentsT], Awaitable[Any]] | None = None


def make_tool(
    tool_id: str,
    description: str,
    arguments: type[ArgumentsT],
    run: Callable[[AuthContext, ToolCall, ArgumentsT], Awaitable[Any]],
    *,
    nature: ToolNature = "idempotent",
    check: Callable[[AuthContext, ToolCall, ArgumentsT], Awaitable[Any]] | None = None,
    timeout_ms: int = 30_000,
) -> Tool[ArgumentsT]:
    """Return a tool whose input schema is that of its arguments.

    `ValueError` when the nature is `check` and there is no way to check, or the other way round.
    """
    if (nature == "check") is not (check is not None):
        raise ValueError(f"{tool_id}: nature {nature} and its check do not fit")
    schema = arguments.model_json_schema()
    spec = ToolSpec(tool_id, description, schema, nature, timeout_ms)
    return Tool(spec, arguments, run, check)
