"""Server-sent events from an HTTP body: the data of each event, and nothing else."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from agentos.domain.errors import ProviderError

MAX_EVENT_BYTES: Final = 2 * 1024 * 1024
MAX_STREAM_BYTES: Final = 64 * 1024 * 1024


async def read_sse(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the data of each event, its lines joined; comments and other fields are left out.

    An event that is not closed by an empty line is not yielded. Raises `ProviderError` for an
    event over 2 MiB or a stream over 64 MiB.
    """
    data: list[bytes] = []
    size = total = 0
    rest = b""
    async for chunk in chunks:
        total += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        if total > MAX_STREAM_BYTES or len(rest) + size > MAX_EVENT_BYTES:
            raise ProviderError("the backend's stream is too long", retryable=False)
        for line in lines:
            text = line.rstrip(b"\r")
            if text.startswith(b"data:"):
                data.append(text[5:].removeprefix(b" "))
                size += len(text)
            elif not text and data:
                yield b"\n".join(data)
                data, size = [], 0
