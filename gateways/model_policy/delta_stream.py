"""A chat call in a task of its own, whose text is handed out as it comes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from agentos.domain.ports import OnDelta
from agentos.gateways.model_policy.calls import Completed

Chat = Callable[[OnDelta], Coroutine[Any, Any, Completed]]


class DeltaStream:
    """What has come of an answer and was not taken yet. The answer's own bound bounds it."""

    def __init__(self, chat: Chat) -> None:
        self._pieces: list[str] = []
        self._wake: asyncio.Future[None] | None = None
        self._task = asyncio.create_task(chat(self._take))
        self._task.add_done_callback(lambda _: self._rouse())

    def _take(self, text: str) -> None:
        self._pieces.append(text)
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def next(self) -> str | None:
        """Return the text that came since the last time, `None` when the call has ended."""
        while not self._pieces:
            if self._task.done():
                return None
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        text = "".join(self._pieces)
        self._pieces.clear()
        return text

    def result(self) -> Completed:
        """Return what the ended call came to, or raise why it failed."""
        return self._task.result()

    async def stop(self) -> None:
        """End the call, wherever it is."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def delta_stream(chat: Chat) -> AsyncIterator[DeltaStream]:
    """Begin a chat call; whoever leaves the block before its end stops it."""
    stream = DeltaStream(chat)
    try:
        yield stream
    finally:
        await stream.stop()
