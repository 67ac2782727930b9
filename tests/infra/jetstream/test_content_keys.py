"""Keys in a real broker: what is destroyed is in none of its files."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentos.infra.jetstream.connection import Connection
from agentos.infra.jetstream.content_keys import JetStreamContentKeys
from tests.contracts.logs import connected
from tests.infra.embedded import EmbeddedNats

BODY = b"0123456789abcdef-wrapped-key-bytes-that-are-easily-found"
KEY = "sub_0123456789abcdef0123456789abcdef-1"


@pytest.fixture
async def connection(own_nats_server: EmbeddedNats) -> AsyncIterator[Connection]:
    async with connected(own_nats_server.url) as open_connection:
        yield open_connection


def is_in_a_file(server: EmbeddedNats) -> bool:
    files = [path for path in server.directory.rglob("*") if path.is_file()]
    assert files
    return any(BODY in path.read_bytes() for path in files)


async def test_a_key_is_made_once_read_and_destroyed(
    connection: Connection, own_nats_server: EmbeddedNats
) -> None:
    keys = JetStreamContentKeys(connection)
    assert await keys.read("tnt_a", KEY) is None
    assert await keys.create("tnt_a", KEY, BODY)
    assert not await keys.create("tnt_a", KEY, b"another")
    assert await keys.read("tnt_a", KEY) == BODY
    assert await keys.read("tnt_b", KEY) is None
    assert is_in_a_file(own_nats_server)
    assert await keys.destroy("tnt_a", KEY)
    assert await keys.read("tnt_a", KEY) == b""
    assert not is_in_a_file(own_nats_server)
    assert not await keys.destroy("tnt_a", KEY)
    assert not await keys.create("tnt_a", KEY, BODY)
    await asyncio.to_thread(own_nats_server.restart)
    assert await keys.read("tnt_a", KEY) == b""
    assert not is_in_a_file(own_nats_server)


async def test_a_crash_behind_the_tombstone_is_mended_by_destroying_again(
    connection: Connection, own_nats_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = JetStreamContentKeys(connection)
    await keys.create("tnt_a", KEY, BODY)

    async def die(sequence: int) -> None:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(keys, "_erase", die)  # the process dies in between
        with pytest.raises(ConnectionError):
            await keys.destroy("tnt_a", KEY)
    assert await keys.read("tnt_a", KEY) == b""  # gone for all already
    assert is_in_a_file(own_nats_server)
    assert await JetStreamContentKeys(connection).destroy("tnt_a", KEY)
    assert not is_in_a_file(own_nats_server)


async def test_a_backup_holds_each_key_as_it_stands(connection: Connection) -> None:
    keys = JetStreamContentKeys(connection)
    assert await keys.entries() == []
    other = KEY.replace("0", "f")
    await keys.create("tnt_a", KEY, BODY)
    await keys.create("tnt_a", other, BODY)
    await keys.destroy("tnt_a", other)
    assert dict(await keys.entries()) == {
        f"ckeys.tnt_a.{KEY}": BODY,
        f"ckeys.tnt_a.{other}": b"",
    }
    await keys.fill(f"ckeys.tnt_a.{other}", BODY)
    assert await keys.read("tnt_a", other) == b""  # what was destroyed stays so
