"""A link between two nodes that a test cuts, delays, or leaves half open."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Literal

Mode = Literal["open", "cut", "half open"]


class TcpProxy:
    """Passes bytes from its port to another one, as long as it is told to.

    `cut`: connections end, and new ones too. `half open`: they stay, and nothing passes; that is
    what a cable looks like that was pulled. `delay_s` holds every piece back.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self.mode: Mode = "open"
        self.delay_s = 0.0
        self.port = 0
        self.accepted = 0

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """End every connection, and each new one at once."""
        self.mode = "cut"
        self._abort()

    def half_open(self) -> None:
        """Let nothing pass any more, in silence."""
        self.mode = "half open"
        self._passing.clear()

    def heal(self) -> None:
        """Let everything pass again; what hung in a half-open link is lost."""
        if self.mode == "half open":
            self._abort()
        self.mode = "open"
        self._passing.set()

    def drop(self) -> None:
        """End the connections that there are; new ones pass."""
        self._abort()

    async def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        left = list(self._writers)
        self._abort()
        await asyncio.gather(*(w.wait_closed() for w in left), return_exceptions=True)

    def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()
        self._writers.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        if self.mode == "cut":
            writer.transport.abort()
            return
        self._own(self._connect(reader, writer))

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passing.wait()
        try:
            there, out = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(out)
        self._own(self._pass(reader, out))
        self._own(self._pass(there, writer))

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while piece := await source.read(65536):
                await self._passing.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                sink.write(piece)
                await sink.drain()
        sink.close()  # and kept: one whose other end reads no more closes only when aborted
