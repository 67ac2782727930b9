"""How the tokens of a text are counted where no backend counts them, and text in pieces."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from pydantic_core import to_json

from agentos.domain.ports import ChatMessage, RequestedToolCall, Usage

CHARACTERS_PER_TOKEN: Final = 4
MAX_PIECES: Final = 512
MOST_COUNTED: Final = 10**9

_WORD: Final = re.compile(r"\s*\S+\s*|\s+")


def estimate_usage(
    messages: Sequence[ChatMessage], content: str, tool_calls: Sequence[RequestedToolCall]
) -> Usage:
    """Return the usage by the contract's rule: one token per 4 characters, rounded up.

    A tool call counts as its tool's id and its arguments as JSON.
    """
    asked = sum(len(m.content) + _length(m.tool_calls) for m in messages)
    answered = len(content) + _length(tool_calls)
    return Usage(-(-asked // CHARACTERS_PER_TOKEN), -(-answered // CHARACTERS_PER_TOKEN))


def tokens_of(texts: Sequence[str]) -> int:
    """Return the tokens of some texts together, by the same rule."""
    return -(-sum(map(len, texts)) // CHARACTERS_PER_TOKEN)


def counted(*counts: Any) -> int | None:
    """Return what a server counted, in sum; `None`, as if it were not sent, for what is no count.

    A count is a whole number from 0 to 10**9: what is said to be more is believed of no call.
    """
    for count in counts:
        if type(count) is not int or not 0 <= count <= MOST_COUNTED:
            return None
    total = sum(counts)
    return total if total <= MOST_COUNTED else None


def _length(calls: Sequence[RequestedToolCall]) -> int:
    if not calls:
        return 0
    return sum(len(c.tool_id) + len(to_json(dict(c.arguments)).decode()) for c in calls)


def stream_words(text: str, on_delta: Callable[[str], None]) -> None:
    """Hand out `text` word by word; a long one in at most 512 larger pieces."""
    if len(text) > 4 * MAX_PIECES:
        size = -(-len(text) // MAX_PIECES)
        for start in range(0, len(text), size):
            on_delta(text[start : start + size])
    else:
        for match in _WORD.finditer(text):
            on_delta(match[0])
