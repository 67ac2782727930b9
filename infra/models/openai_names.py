"""Tool ids as function names of OpenAI's format, which hold no dots and at most 64 characters.

`.` becomes `_` and `_` becomes `_U`: tool ids have no capitals, so the way back is exact. A
name that would be too long, or is no tool id at all (a model may invent one), ends in `_X` and
a digest; its way back is known from the request it stands in.
"""

import hashlib
import re
from typing import Final

from agentos.domain.ids import TOOL_ID
from agentos.domain.ports import ModelRequest

MAX_NAME: Final = 64

_ESCAPE: Final = re.compile(r"_U?")
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_-]")
_DIGEST_LENGTH: Final = 16


def function_name(tool_id: str) -> str:
    """Return the function name that stands for a tool; the same for the same id, always."""
    name = tool_id.replace("_", "_U").replace(".", "_")
    if len(name) <= MAX_NAME and TOOL_ID.match(tool_id):
        return name
    digest = hashlib.sha256(tool_id.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{_UNFIT.sub('-', name)[: MAX_NAME - _DIGEST_LENGTH - 2]}_X{digest}"


def tool_id_of(name: str, request: ModelRequest) -> str:
    """Return the tool that a function name stands for; the name itself if for none."""
    for spec in request.tools:
        if function_name(spec.tool_id) == name:
            return spec.tool_id
    tool_id = _ESCAPE.sub(lambda match: "_" if match[0] == "_U" else ".", name)
    return tool_id if TOOL_ID.match(tool_id) and function_name(tool_id) == name else name
