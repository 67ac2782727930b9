"""How an answer of JSON, or of server-sent events with JSON, is read into its parts."""

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from agentos.domain.errors import ProviderError
from agentos.infra.models.answer_parts import AnswerParts
from agentos.infra.models.embeddings import MAX_EMBED_BYTES
from agentos.infra.models.incoming import Incoming

Fold = Callable[[Any, AnswerParts], None]


async def read_whole(incoming: Incoming, parts: AnswerParts, fold: Fold) -> None:
    """Read one object of JSON; `ProviderError` for any other format."""
    if (media_type := incoming.media_type()) != "application/json":
        raise other_format(media_type)
    parts.take(await incoming.whole(), fold)


async def read_events(
    incoming: Incoming, parts: AnswerParts, fold: Fold, *, is_last: Callable[[AnswerParts], bool]
) -> None:
    """Read a stream of events up to the one behind which `is_last` says so, or to its end."""
    if (media_type := incoming.media_type()) != "text/event-stream":
        raise other_format(media_type)
    async with aclosing(incoming.events()) as events:
        async for data in events:
            parts.take(data, fold)
            if is_last(parts):
                break
    await incoming.reach_end()


async def read_embeddings(incoming: Incoming) -> bytes:
    """Return the body of an embedding answer."""
    if (media_type := incoming.media_type()) != "application/json":
        raise other_format(media_type)
    return await incoming.whole(MAX_EMBED_BYTES)


def other_format(media_type: str) -> ProviderError:
    """Return the error for an answer in a format that was not asked for."""
    return ProviderError(
        "the backend answered in another format", stage="answer", content_type=media_type[:100]
    )
