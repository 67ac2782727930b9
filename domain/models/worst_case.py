"""What a call may use at most: held before it is made, so that no budget is ever passed.

Real tokenisers make no token of less than one byte of UTF-8, so the bytes bound the tokens. The
builtin models count one token per 4 characters, and what they answer is made of their input.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic_core import to_json

from agentos.domain.models.plan import Target
from agentos.domain.ports import ChatMessage, ModelRequest, ToolOffer

BUILTIN: Final = "builtin"
CHARACTERS_A_TOKEN: Final = 4
DEFAULT_OUTPUT: Final = 4096
A_MESSAGE: Final = 16
A_TOOL: Final = 32
A_CALL: Final = 64


def estimated_tokens(texts: Iterable[str]) -> int:
    """Return the tokens by the contract's rule: one per 4 characters, rounded up."""
    return -(-sum(map(len, texts)) // CHARACTERS_A_TOKEN)


def chat_texts(request: ModelRequest) -> list[str]:
    """Return everything that a model is asked to read."""
    texts = [message.content for message in request.messages]
    texts += [text for one in request.messages if one.tool_calls for text in _calls(one)]
    texts += [text for tool in request.tools for text in _tool(tool)]
    return texts


def input_ceiling(texts: Sequence[str], parts: int, backend: str) -> int:
    """Return how many tokens `texts`, in so many messages and tools, can be at most."""
    if backend == BUILTIN:
        return estimated_tokens(texts) + parts
    return sum([_bytes(text) for text in texts]) + A_MESSAGE * parts


def output_ceiling(max_output: int | None, input_tokens: int, target: Target) -> int:
    """Return how many tokens the answer can be at most."""
    if target.backend == BUILTIN:
        most = 2 * input_tokens + A_CALL
        return most if max_output is None else min(most, max_output + A_CALL)
    return DEFAULT_OUTPUT if max_output is None else max_output


def parts_of(request: ModelRequest) -> int:
    """Return how many messages and tools a request has: each costs some tokens of its own.

    What a model reads and `chat_texts` leaves out, as the contract's estimate does, is held as so
    many parts more.
    """
    unseen = sum([_bytes(text) for text in _unestimated(request)])
    return len(request.messages) + 2 * len(request.tools) + 1 + -(-unseen // A_MESSAGE)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _calls(message: ChatMessage) -> Iterable[str]:
    for call in message.tool_calls:
        yield call.tool_id
        yield _json(dict(call.arguments))


def _unestimated(request: ModelRequest) -> Iterable[str]:
    """Return the names, ids and marks, and the form of the answer."""
    for message in request.messages:
        if message.name:
            yield message.name
        if message.tool_call_id:
            yield message.tool_call_id
        for call in message.tool_calls:
            yield call.tool_call_id
            yield call.name
    for tool in request.tools:
        if tool.tool_id != tool.name:
            yield tool.tool_id
    yield from request.stop
    if request.response_format:
        yield _json(dict(request.response_format))


def _tool(tool: ToolOffer) -> Iterable[str]:
    yield tool.name
    yield tool.description
    yield _json(dict(tool.input_schema))


def _json(value: Any) -> str:
    return to_json(value).decode()
