"""HTTP/1.1 as servers really speak it: whatever comes is an answer or an error, and in time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from agentos.infra.models import http1
from agentos.infra.models.http1 import BrokenOffError, Exchange, Kept, NotHttpError, header_lines

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """Says its lines, one for each request, and keeps what it was asked."""

    def __init__(self, *says: bytes, then: str = "stay") -> None:
        self.says, self.then = list(says), then
        self.asked: list[bytes] = []
        self.connections = 0
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.says:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                self.asked.append(head + body)
                writer.write(self.says.pop(0))
                await writer.drain()
                if self.then == "close":
                    break
            else:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.left.set()


@asynccontextmanager
async def kept(server: Server, limit: int = 4, **headers: str) -> AsyncIterator[Kept]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    url = URL(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    found = Kept(url, headers, limit=limit, connect_s=2)
    try:
        yield found
    finally:
        found.close()
        listening.close()


async def body_of(exchange: Exchange) -> bytes:
    found = b""
    while piece := await exchange.more():
        found += piece
    return found


async def whole(
    there: Kept,
    body: bytes = b"{}",
    *,
    within: float = 5.0,
    read: Callable[[Exchange], Awaitable[bytes]] = body_of,
) -> tuple[int, bytes]:
    """Ask, and read the answer to its end."""
    deadline = asyncio.get_running_loop().time() + within
    exchange = await there.begin(deadline)
    try:
        await exchange.ask(there.request("POST", URL("http://x/a b?c=d"), {}, body), deadline)
        return exchange.status, await read(exchange)
    finally:
        there.end(exchange)


async def test_a_connection_is_used_again_and_says_what_it_must() -> None:
    server = Server(OK, OK, OK)
    async with kept(server, Authorization="Bearer x") as there:
        for _ in range(3):
            assert await whole(there, b"[1]") == (200, b"hi")
        assert server.connections == 1
        lines = server.asked[0].split(b"\r\n")
        assert lines[0] == b"POST /a%20b?c=d HTTP/1.1"
        assert lines[-1] == b"[1]"
        sent = {line.split(b": ")[0].decode(): line.split(b": ")[1] for line in lines[1:-2]}
        assert sent["Host"].startswith(b"127.0.0.1:")
        assert sent["Authorization"] == b"Bearer x"
        assert sent["Content-Length"] == b"3"


@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        CHUNKED + b"1\r\nh\r\n1\r\ni\r\n0\r\n\r\n",
        CHUNKED + b"2;ext=1\r\nhi\r\n0\r\nTrailer: x\r\n\r\n",
    ],
)
async def test_informational_answers_and_chunks(says: bytes) -> None:
    server = Server(says, says)
    async with kept(server) as there:
        assert await whole(there) == (200, b"hi")
        assert await whole(there) == (200, b"hi")
        assert server.connections == 1


@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
        OK + b"rubbish",
    ],
)
async def test_a_connection_that_cannot_stay_or_says_too_much_is_not_used_again(
    says: bytes,
) -> None:
    server = Server(says, says)
    async with kept(server) as there:
        assert await whole(there) == (200, b"hi")
        assert await whole(there) == (200, b"hi")
        assert server.connections == 2


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async with kept(Server(b"HTTP/1.1 200 OK\r\n\r\nhi", then="close")) as there:
        assert await whole(there) == (200, b"hi")


@pytest.mark.parametrize(
    "says", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", CHUNKED + b"2\r\nhi\r\n"]
)
async def test_an_answer_that_breaks_off_is_none(says: bytes) -> None:
    async with kept(Server(says, then="close")) as there:
        with pytest.raises(BrokenOffError) as caught:
            await whole(there)
        assert caught.value.is_sent


async def test_what_was_read_before_it_broke_is_there() -> None:
    read: list[bytes] = []

    async def keep(exchange: Exchange) -> bytes:
        while True:
            read.append(await exchange.more())

    async with kept(Server(CHUNKED + b"2\r\nhi\r\n", then="close")) as there:
        with pytest.raises(BrokenOffError):
            await whole(there, read=keep)
    assert b"".join(read) == b"hi"


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_connection_that_ends_before_an_answer(says: bytes) -> None:
    async with kept(Server(says, then="close")) as there:
        with pytest.raises(BrokenOffError) as caught:
            await whole(there)
        assert caught.value.is_sent


@pytest.mark.parametrize(
    "says",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"<html>\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhi",
    ],
)
async def test_what_is_no_http_is_said_so(says: bytes) -> None:
    server = Server(says, OK)
    async with kept(server) as there:
        with pytest.raises(NotHttpError):
            await whole(there)
        assert await whole(there) == (200, b"hi")
        assert server.connections == 2


async def test_a_chunk_that_is_none_breaks_the_answer_off() -> None:
    async with kept(Server(CHUNKED + b"2\r\nhi\r\nzz\r\n")) as there:
        with pytest.raises(BrokenOffError):
            await whole(there)


@pytest.mark.parametrize("says", [b"", CHUNKED, CHUNKED + b"2\r\nhi\r\n"])
async def test_silence_ends_at_the_deadline(says: bytes) -> None:
    server = Server(says)
    async with kept(server) as there:
        with pytest.raises(TimeoutError):
            await whole(there, within=0.1)
        async with asyncio.timeout(5):
            await server.left.wait()


async def test_a_deadline_moves_both_ways() -> None:
    async def sooner(exchange: Exchange) -> bytes:
        exchange.until(asyncio.get_running_loop().time() + 0.05)
        return await body_of(exchange)

    async def later(exchange: Exchange) -> bytes:
        exchange.until(asyncio.get_running_loop().time() + 30)
        return await exchange.more() + await exchange.more()

    async with kept(Server(CHUNKED)) as there:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await whole(there, within=60, read=sooner)
    async with kept(Server(CHUNKED + b"2\r\nhi\r\n")) as there:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await whole(there, within=0.1, read=later)


async def test_an_answer_that_was_not_read_to_its_end_closes_the_connection() -> None:
    async def nothing(exchange: Exchange) -> bytes:
        return b""

    server = Server(OK, OK)
    async with kept(server) as there:
        assert await whole(there, read=nothing) == (200, b"")
        assert await whole(there) == (200, b"hi")
        assert server.connections == 2


async def test_an_answer_before_all_was_sent_closes_the_connection() -> None:
    class Hasty(Server):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK.replace(b"200 OK", b"413 Large"))
            await writer.drain()
            await asyncio.wait_for(self.left.wait(), 10)
            writer.close()

    server = Hasty()
    async with kept(server) as there:
        assert (await whole(there, b"x" * 20_000_000))[0] == 413
        assert (await whole(there))[0] == 413
        assert server.connections == 2
        server.left.set()


async def test_a_server_that_closes_what_is_idle_is_connected_to_anew() -> None:
    closing = Server(OK, then="close")
    async with kept(closing) as there:
        await whole(there)
        async with asyncio.timeout(5):
            while there._idle:  # noqa: ASYNC110 - the system tells the loop
                await asyncio.sleep(0.01)
        closing.says = [OK]
        assert await whole(there) == (200, b"hi")
        assert closing.connections == 2


async def test_idle_connections_are_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "KEPT_S", 0.05)
    server = Server(OK, OK)
    async with kept(server) as there:
        await whole(there)
        async with asyncio.timeout(5):
            await server.left.wait()


async def test_no_more_connections_than_allowed() -> None:
    slow = Server(b"", b"", OK)
    async with kept(slow, limit=1) as there:
        first = asyncio.create_task(whole(there, within=0.3))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await whole(there, within=0.05)
        with pytest.raises(TimeoutError):
            await first
        slow.says = [OK]
        assert await whole(there) == (200, b"hi")


async def test_a_reader_that_is_slow_slows_the_server_down() -> None:
    many = 8 * 1024 * 1024
    server = Server(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % many + b"x" * many)

    async def slowly(exchange: Exchange) -> bytes:
        most, found = 0, 0
        for _ in range(50):
            await asyncio.sleep(0)
        while piece := await exchange.more():
            most, found = max(most, len(piece)), found + len(piece)
            for _ in range(5):
                await asyncio.sleep(0)
        assert found == many
        return b"%d" % most

    async with kept(server) as there:
        _, most = await whole(there, read=slowly, within=30)
        assert int(most) < 1024 * 1024


async def test_nobody_there_and_no_trusted_certificate() -> None:
    gone = Kept(URL("http://127.0.0.1:1"), {}, limit=1, connect_s=1)
    with pytest.raises(BrokenOffError) as caught:
        await whole(gone)
    assert not caught.value.is_sent
    server = Server(OK)
    async with kept(server) as there:
        plain = URL(f"https://127.0.0.1:{there._port}")
        with pytest.raises(BrokenOffError) as caught:
            await whole(Kept(plain, {}, limit=1, connect_s=2))
        assert not caught.value.is_sent


async def test_a_caller_who_leaves_closes_what_is_under_way() -> None:
    server = Server(b"")
    async with kept(server) as there:
        task = asyncio.create_task(whole(there))
        async with asyncio.timeout(5):
            while not server.asked:  # noqa: ASYNC110 - another task of the server
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await server.left.wait()


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\rb", "a\0b"])
def test_a_header_is_one_line(value: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        header_lines({"X-A": value})
