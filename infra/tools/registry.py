"""All tools of this node, behind `ToolPort`: what holds for every call of any tool."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_json

from agentos.domain.auth import AuthContext
from agentos.domain.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    TimedOutError,
    ToolFailedError,
)
from agentos.domain.ids import TOOL_ID
from agentos.domain.ports import ToolCall, ToolSpec
from agentos.infra.tools.tool import Arguments, Tool

MAX_OUTPUT_BYTES: Final = 256 * 1024


class Tools:
    """The tools by their ids."""

    def __init__(self, tools: Iterable[Tool[Any]]) -> None:
        """Register `tools`; `ValueError` for an id that is impossible or stands twice."""
        self._tools: dict[str, Tool[Any]] = {}
        for tool in tools:
            tool_id = tool.spec.tool_id
            if not TOOL_ID.match(tool_id) or tool_id in self._tools:
                raise ValueError(f"not a tool id, or there twice: {tool_id!r}")
            self._tools[tool_id] = tool

    def specs(self) -> list[ToolSpec]:
        """Return what is known of every tool, by id."""
        return [self._tools[tool_id].spec for tool_id in sorted(self._tools)]

    def spec(self, tool_id: str) -> ToolSpec | None:
        """Return what is known of a tool, `None` if there is no such tool."""
        tool = self._tools.get(tool_id)
        return tool.spec if tool else None

    async def call(self, auth: AuthContext, call: ToolCall) -> Any:
        """Make the call and return its output, JSON of at most 256 KiB.

        Raises `ForbiddenError` without the scope `tools:invoke`, `NotFoundError` for an
        unknown tool, `InvalidRequestError` for arguments that do not fit, `TimedOutError`
        after `call.timeout_ms`, `ToolFailedError`, and what the tool itself raises.
        """
        tool = self._permitted(auth, call)
        arguments = _validated(tool, call)
        output = await _within(call, tool.run(auth, call, arguments))
        return _checked_output(call, output)

    async def check(self, auth: AuthContext, call: ToolCall) -> Any:
        """Ask a `check` tool whether that call was made; its output, or `None` if it was not.

        Raises as `call` does, and `InvalidRequestError` for a tool of another nature.
        """
        tool = self._permitted(auth, call)
        if tool.check is None:
            raise InvalidRequestError("the tool cannot be asked", tool_id=call.tool_id)
        arguments = _validated(tool, call)
        output = await _within(call, tool.check(auth, call, arguments))
        return _checked_output(call, output)

    def _permitted(self, auth: AuthContext, call: ToolCall) -> Tool[Any]:
        if "tools:invoke" not in auth.scopes:
            raise ForbiddenError("tools may not be called", required_scope="tools:invoke")
        tool = self._tools.get(call.tool_id)
        if tool is None:
            raise NotFoundError("no such tool", tool_id=call.tool_id)
        return tool


def _validated(tool: Tool[Any], call: ToolCall) -> Arguments:
    try:
        arguments: Arguments = tool.arguments.model_validate(dict(call.arguments))
    except ValidationError as exc:
        errors = [
            {"loc": [str(part) for part in error["loc"]], "msg": error["msg"]}
            for error in exc.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise InvalidRequestError(
            "the tool's arguments do not fit", tool_id=call.tool_id, errors=errors[:20]
        ) from exc
    return arguments


async def _within(call: ToolCall, work: Awaitable[Any]) -> Any:
    limit = asyncio.timeout(call.timeout_ms / 1000)
    try:
        async with limit:
            return await work
    except TimeoutError as exc:
        if not limit.expired():
            raise ToolFailedError("the tool gave up waiting", tool_id=call.tool_id) from exc
        raise TimedOutError("the tool took too long", tool_id=call.tool_id) from exc


def _checked_output(call: ToolCall, output: Any) -> Any:
    try:
        size = len(to_json(output))
    except PydanticSerializationError as exc:
        raise ToolFailedError("the tool's output is no JSON", tool_id=call.tool_id) from exc
    if size > MAX_OUTPUT_BYTES:
        raise ToolFailedError(
            "the tool's output is too large",
            tool_id=call.tool_id,
            bytes=size,
            limit=MAX_OUTPUT_BYTES,
        )
    return output
