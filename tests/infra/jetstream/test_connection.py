"""The connection: fails fast while the broker is away, and comes back with it."""

import asyncio
import contextlib
import signal
from typing import Any

import pytest

from agentos.domain.auth import system_auth
from agentos.domain.errors import DependencyUnavailableError
from agentos.infra.jetstream import connection as connection_module
from agentos.infra.jetstream.bus import NatsCommandBus
from agentos.infra.jetstream.connection import DisconnectedError, bounded_close, connect
from agentos.infra.jetstream.signals import NatsSignals
from tests.contracts.logs import connected, until
from tests.infra.embedded import EmbeddedNats


async def test_a_broker_that_is_not_there_is_an_error_with_its_reason() -> None:
    with pytest.raises(DependencyUnavailableError, match="Refused") as caught:
        await connect("nats://127.0.0.1:1", "test", timeout=0.5)
    assert caught.value.details == {"dependency": "nats"}


async def test_an_attempt_that_swallows_its_end_is_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def swallow(*_: object) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        raise OSError("nobody there")

    monkeypatch.setattr("nats.aio.client.Client._connect_to_server", swallow)
    async with asyncio.timeout(20):
        with pytest.raises(DependencyUnavailableError):
            await connect("nats://127.0.0.1:1", "test", timeout=0.1)


async def test_wrong_credentials_are_an_error_with_their_reason(
    nats_server: EmbeddedNats,
) -> None:
    address = nats_server.url.rpartition("@")[2]
    with pytest.raises(DependencyUnavailableError, match="uthorization"):
        await connect(f"nats://nobody:wrong@{address}", "test", timeout=1)


async def test_requests_fail_at_once_when_the_connection_breaks(
    own_nats_server: EmbeddedNats,
) -> None:
    async with connected(own_nats_server.url) as connection:
        await connection.subscribe("cmd.silent")
        bus = NatsCommandBus(connection)
        waiting = asyncio.ensure_future(bus.send("silent", system_auth("tnt_a"), {}, timeout=60))
        await connection.flush()
        own_nats_server.kill()
        with pytest.raises(DependencyUnavailableError) as caught:
            await asyncio.wait_for(waiting, 5)
        assert caught.value.details["dependency"] == "nats"
        with pytest.raises(DisconnectedError):
            connection.post("x", b"")
        await NatsSignals(connection).publish("x", b"dropped")


async def test_a_frozen_broker_is_noticed_in_seconds(own_nats_server: EmbeddedNats) -> None:
    async with connected(own_nats_server.url) as connection:
        assert own_nats_server.process is not None
        own_nats_server.process.send_signal(signal.SIGSTOP)
        with pytest.raises((DisconnectedError, TimeoutError)):
            await connection.ask("$JS.API.INFO", b"x" * 4_000_000, timeout=20)

        async def down() -> bool:
            return not connection.is_connected

        await until(down, 6)
        own_nats_server.process.send_signal(signal.SIGCONT)
        await connection.wait_up(10)
        assert (await connection.ask("$JS.API.INFO", b"", timeout=5)).data


async def test_a_broker_that_sends_is_no_stale_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked last is answered behind megabytes of events, when the process is busy."""
    monkeypatch.setattr(connection_module, "PING_INTERVAL", 0.1)
    left = 20

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        writer.write(b'INFO {"max_payload":1048576}\r\n')
        while not (await reader.readline()).startswith(b"PING"):
            pass
        writer.write(b"PONG\r\n")  # the only one
        while left:
            if (await reader.readline()).startswith(b"PING"):
                left -= 1
                writer.write(b"MSG news 2 2\r\nhi\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = await connect(f"nats://127.0.0.1:{port}", "test")
    lost: list[int] = []
    try:
        await connection.subscribe_direct("news", lambda *_: None)
        connection.on_lost.add(lambda: lost.append(left))
        async with asyncio.timeout(60):
            while not lost:  # noqa: ASYNC110 - it is called, and only then
                await asyncio.sleep(0.02)
        assert lost[0] == 0
    finally:
        await bounded_close(connection)
        server.close()


async def test_a_signal_subscription_outlives_the_broker(own_nats_server: EmbeddedNats) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    async with connected(own_nats_server.url) as connection:
        signals = NatsSignals(connection)
        await signals.subscribe("hb.>", lambda _, data: heard.put_nowait(data))
        await asyncio.to_thread(own_nats_server.restart)
        await connection.wait_up(10)
        await signals.publish("hb.x", b"again")
        assert await asyncio.wait_for(heard.get(), 5) == b"again"


async def test_a_subject_with_a_space_or_line_break_is_refused(nats_server: EmbeddedNats) -> None:
    async with connected(nats_server.url) as connection:
        for subject in ("a b", "a\r\nPUB x 0\r\n\r\n", "a\tb"):
            with pytest.raises(ValueError, match="not a subject"):
                connection.post(subject, b"")


async def test_an_error_of_the_server_is_heard_of(nats_server: EmbeddedNats) -> None:
    errors: list[str] = []
    connection = await connect(
        nats_server.url, "test", on_error=lambda error: errors.append(str(error))
    )
    await connection._ps.parse(b"-ERR 'Permissions Violation for Publish to \"x\"'\r\n")
    assert connection.is_connected, "only that publish was refused"
    assert "permissions violation" in errors[0]
    await connection._ps.parse(b"-ERR 'Slow Consumer'\r\n")
    assert not connection.is_connected
    await connection.wait_up(5)
    assert (await connection.ask("$JS.API.INFO", b"", timeout=5)).data
    assert "slow consumer" in errors[1]
    await bounded_close(connection)


async def test_a_close_that_takes_too_long_leaves_no_socket(
    nats_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await connect(nats_server.url, "test")
    transport: Any = connection._transport
    socket = transport._bare_io_writer.transport
    with monkeypatch.context() as patched:
        patched.setattr(connection, "close", asyncio.Event().wait)
        await bounded_close(connection, timeout=0.05)
    assert socket.is_closing()
    await bounded_close(connection)
