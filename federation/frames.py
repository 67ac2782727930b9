"""Server-sent events, out of the pieces in which they come."""

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from agentos.domain.federation.peer import PeerUnreachableError

MAX_FRAME: Final = 16 * 1024 * 1024


class Frame(NamedTuple):
    """One message: its name, its id (`None` without one that is a number), its data."""

    event: str
    id: int | None
    data: bytes


class FrameReader:
    """Cuts pieces into frames; comments are passed over."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[Frame]:
        """Return the frames that end in this piece; `PeerUnreachableError` for one without end."""
        *whole, self._rest = (self._rest + piece).split(b"\n\n")
        if len(self._rest) > MAX_FRAME:
            raise PeerUnreachableError("the peer sends a message without an end")
        return [frame for text in whole if (frame := _frame(text)) is not None]


def _frame(text: bytes) -> Frame | None:
    event, number, data = "message", None, None
    for line in text.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            event = value.decode(errors="replace")
        elif name == b"id" and value.isdigit() and len(value) <= 19:
            number = int(value)
        elif name == b"data":
            data = value if data is None else data + b"\n" + value
    return None if data is None else Frame(event, number, data)


async def frames(pieces: AsyncIterator[bytes]) -> AsyncIterator[Frame]:
    """Yield the frames of a stream, one by one."""
    reader = FrameReader()
    async for piece in pieces:
        for frame in reader.feed(piece):
            yield frame
