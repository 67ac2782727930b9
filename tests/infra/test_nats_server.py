"""The embedded NATS server, for real."""

import asyncio
import stat
from pathlib import Path

import nats
from nats.aio.client import Client

from agentos.infra.nats_server import configure_nats, load_nats
from tests.infra.embedded import EmbeddedNats


async def _connect(url: str) -> Client:
    return await nats.connect(url, allow_reconnect=False, connect_timeout=2)


async def test_it_keeps_its_data_port_and_password_across_a_crash(
    own_nats_server: EmbeddedNats,
) -> None:
    client = await _connect(own_nats_server.url)
    stream = client.jetstream()
    await stream.add_stream(name="S", subjects=["s.>"])
    await stream.publish("s.a", b"kept")
    await client.close()
    own_nats_server.restart()
    client = await _connect(own_nats_server.url)
    message = await client.jetstream().get_msg("S", 1)
    assert message.data == b"kept"
    assert own_nats_server.server.last_sequence("S") == 1
    assert own_nats_server.server.last_sequence("T") is None
    await client.close()


async def test_it_takes_messages_up_to_eight_megabytes_and_needs_a_password(
    nats_server: EmbeddedNats,
) -> None:
    client = await _connect(nats_server.url)
    assert client.max_payload == 8 * 1024 * 1024
    await client.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.server.port)
    await reader.readline()
    writer.write(b"CONNECT {}\r\nPING\r\n")
    assert b"Authorization Violation" in await reader.readline()
    writer.close()
    system = await _connect(nats_server.server.system_url)
    await system.close()


def test_the_server_itself_says_whether_it_syncs(
    nats_server: EmbeddedNats, power_nats_server: EmbeddedNats
) -> None:
    assert nats_server.server.syncs_always() is False
    assert power_nats_server.server.syncs_always() is True


def test_what_holds_credentials_is_for_the_owner_only(tmp_path: Path) -> None:
    server = configure_nats(tmp_path / "nats", sync_always=True)
    for name in ("nats.conf", "server.json"):
        assert stat.S_IMODE((tmp_path / "nats" / name).stat().st_mode) == 0o600
    assert server.password not in repr(server)
    assert load_nats(tmp_path / "nats") == server


def test_it_moves_when_another_program_took_its_port(nats_server: EmbeddedNats) -> None:
    again = configure_nats(nats_server.directory / "nats2", sync_always=False)
    taken = nats_server.server.port
    config = nats_server.directory / "nats2" / "server.json"
    config.write_text(config.read_text().replace(str(again.port), str(taken)))
    moved = configure_nats(nats_server.directory / "nats2", sync_always=False)
    assert moved.port != taken
    assert moved.password == again.password


def test_no_answer_is_not_no_stream(own_nats_server: EmbeddedNats) -> None:
    assert own_nats_server.server.last_sequences() == {}
    own_nats_server.kill()
    assert own_nats_server.server.last_sequences() is None
