"""HTTP by hand: what no well-behaved client would send."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

WHO: Final = b"X-Tenant-Id: tnt_demo\r\nX-Principal-Id: usr_raw\r\n"
WAIT_S: Final = 15.0


class RawConnection:
    """One TCP connection to a gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are; what the node refuses to take is dropped."""
        try:
            self.writer.write(data)
            await asyncio.wait_for(self.writer.drain(), WAIT_S)
        except ConnectionError:
            return

    async def answer(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Read one response with a content length; returns status, headers and body."""
        async with asyncio.timeout(WAIT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")
            pairs = (line.partition(":") for line in lines if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            length = int(headers.get("content-length", "0")) if has_body else 0
            return int(first.split()[1]), headers, await self.reader.readexactly(length)

    async def ended(self, within: float = WAIT_S) -> bool:
        """Return whether the node closes the connection in time."""
        try:
            async with asyncio.timeout(within):
                while await self.reader.read(65536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True


@asynccontextmanager
async def raw_connection(port: int) -> AsyncIterator[RawConnection]:
    """Open a connection, and close it at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.transport.abort()


async def one_answer(
    port: int, data: bytes, *, has_body: bool = True
) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Send bytes on a connection of their own; returns status, headers and JSON body."""
    async with raw_connection(port) as connection:
        await connection.send(data)
        status, headers, body = await connection.answer(has_body=has_body)
        return status, headers, json.loads(body) if body else {}


def post(path: str, body: bytes, more: bytes = b"") -> bytes:
    """Return a POST request."""
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % (path.encode(), len(body))
    return head + WHO + more + b"\r\n" + body


def get(path: str, more: bytes = b"", method: bytes = b"GET") -> bytes:
    """Return a request without a body."""
    return b"%b %b HTTP/1.1\r\nHost: x\r\n" % (method, path.encode()) + WHO + more + b"\r\n"
