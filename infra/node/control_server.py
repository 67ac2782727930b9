"""The supervisor's end of its socket: one JSON object a line, in both directions."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from agentos.infra.node.control import Message

Answer = Callable[[Message], AsyncIterator[Message]]


class ControlServer:
    """Listens on the socket; each request line is answered by the lines of `answer(request)`."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path, self._answer = path, answer
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Begin to listen. Only the holder of the node's lock may: an older socket goes."""
        await asyncio.to_thread(self._path.unlink, missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, str(self._path))

    async def close(self, timeout: float = 2.0) -> None:
        """Stop listening, let the answers in hand be finished, remove the socket."""
        if self._server:
            self._server.close()
        if self._serving:
            _, late = await asyncio.wait(self._serving, timeout=timeout)
            for task in late:
                task.cancel()
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError, TimeoutError):
            request = json.loads(await asyncio.wait_for(reader.readline(), 10))
            async for message in self._answer(request):
                writer.write(json.dumps(message).encode() + b"\n")
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()
