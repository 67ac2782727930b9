"""Tools by the function names of model servers: letters, digits, `_` and `-`, at most 64.

A name that the caller chose and that fits goes as it is. A tool id, which has dots, is escaped:
`.` becomes `_` and `_` becomes `_U`; tool ids have no capitals, so the way back is exact. What
would be too long, or is no tool id at all (a model may invent one), ends in `_X` and a digest;
its way back is known from the request it stands in.
"""

import hashlib
import re
from typing import Final

from agentos.domain.errors import InvalidRequestError
from agentos.domain.ids import TOOL_ID
from agentos.domain.ports import ModelRequest, RequestedToolCall, ToolOffer

MAX_NAME: Final = 64

_ESCAPE: Final = re.compile(r"_U?")
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_-]")
_FITS: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_DIGEST_LENGTH: Final = 16


class ToolNames:
    """The function names of one request's tools, and the way back."""

    __slots__ = ("_by_tool", "_offers")

    def __init__(self, request: ModelRequest) -> None:
        self._by_tool: dict[str, str] = {}
        self._offers: dict[str, ToolOffer] = {}
        for offer in request.tools:
            name = _wire_name(offer.tool_id, offer.name)
            if name in self._offers:
                name = _digested(offer.tool_id)
            self._by_tool[offer.tool_id] = name
            self._offers[name] = offer

    def of(self, tool: ToolOffer | RequestedToolCall) -> str:
        """Return the function name of a tool that is offered or was called earlier."""
        return self._by_tool.get(tool.tool_id) or _wire_name(tool.tool_id, tool.name)

    def chosen(self, tool_choice: str) -> str:
        """Return the function name of the tool to call; `InvalidRequestError` if not offered."""
        for name, offer in self._offers.items():
            if tool_choice in (offer.name, offer.tool_id):
                return name
        raise InvalidRequestError("tool_choice names no offered tool", tool_choice=tool_choice)

    def back(self, name: str) -> tuple[str, str]:
        """Return the id and the caller's name of a tool; the name itself if it is none."""
        if (offer := self._offers.get(name)) is not None:
            return offer.tool_id, offer.name
        tool_id = _ESCAPE.sub(lambda match: "_" if match[0] == "_U" else ".", name)
        if not (TOOL_ID.match(tool_id) and function_name(tool_id) == name):
            tool_id = name
        return tool_id, tool_id


def function_name(tool_id: str) -> str:
    """Return the function name that stands for a tool id; the same for the same id, always."""
    name = tool_id.replace("_", "_U").replace(".", "_")
    if len(name) <= MAX_NAME and TOOL_ID.match(tool_id):
        return name
    return _digested(tool_id)


def _wire_name(tool_id: str, name: str) -> str:
    return name if _FITS.match(name) else function_name(tool_id)


def _digested(tool_id: str) -> str:
    digest = hashlib.sha256(tool_id.encode(errors="surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    name = tool_id.replace("_", "_U").replace(".", "_")
    return f"{_UNFIT.sub('-', name)[: MAX_NAME - _DIGEST_LENGTH - 2]}_X{digest}"
