"""What holds for both key-value maps, and for the tools on them."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import nats
import pytest
from nats.aio.client import Client

from agentos.domain.errors import (
    DependencyUnavailableError,
    InvalidRequestError,
    PayloadTooLargeError,
)
from agentos.infra.tools.jetstream_kv import REMEMBERED_PUTS, JetStreamKeyValue
from agentos.infra.tools.key_value import (
    MAX_VALUE_BYTES,
    KeyValue,
    MemoryKeyValue,
    kv_get_tool,
    kv_put_tool,
)
from agentos.infra.tools.registry import Tools
from tests.infra.embedded import EmbeddedNats
from tests.infra.tools.calls import call, caller


async def ignore(error: Exception) -> None:
    """Reconnection errors are what these tests are about."""


async def connect(server: EmbeddedNats) -> Client:
    return await nats.connect(server.url, error_cb=ignore, reconnect_time_wait=0.05)


@pytest.fixture(params=["memory", "jetstream"])
async def kv(request: pytest.FixtureRequest) -> AsyncIterator[KeyValue]:
    if request.param == "memory":
        yield MemoryKeyValue()
        return
    client = await connect(request.getfixturevalue("nats_server"))
    try:
        yield await JetStreamKeyValue.open(client.jetstream(), bucket=f"kv_{uuid4().hex}")
    finally:
        await client.close()


async def test_the_last_put_wins_and_a_missing_key_has_no_value(kv: KeyValue) -> None:
    assert await kv.get("tnt_a", "k") is None
    await kv.put("tnt_a", "k", b"1", "op1")
    await kv.put("tnt_a", "k", b"2\n\n", "op2")
    assert await kv.get("tnt_a", "k") == b"2\n\n"


async def test_a_repeated_put_has_no_second_effect(kv: KeyValue) -> None:
    await kv.put("tnt_a", "k", b"1", "op1")
    for number in range(REMEMBERED_PUTS - 1):
        await kv.put("tnt_a", "k", b"x", f"between{number}")
    await kv.put("tnt_a", "k", b"1", "op1")
    assert await kv.get("tnt_a", "k") == b"x"


async def test_tenants_are_apart(kv: KeyValue) -> None:
    await kv.put("tnt_a", "k", b"a", "op")
    await kv.put("tnt_b", "k", b"b", "op")
    assert (await kv.get("tnt_a", "k"), await kv.get("tnt_b", "k")) == (b"a", b"b")
    assert await kv.get("tnt_c", "k") is None


@pytest.mark.parametrize("key", ["a.b", "*", ">", "a b", "ключ/🔑", "x" * 256, ".", "..", "$KV.x"])
async def test_any_printable_key_works(kv: KeyValue, key: str) -> None:
    await kv.put("tnt_a", key, key.encode(), f"op {key}")
    await kv.put("tnt_a", key + "x", b"other", f"op {key}x")
    assert await kv.get("tnt_a", key) == key.encode()


async def test_writers_of_one_key_all_finish(kv: KeyValue) -> None:
    await asyncio.gather(*(kv.put("tnt_a", "k", str(n).encode(), f"op{n}") for n in range(20)))
    last = await kv.get("tnt_a", "k")
    assert last is not None
    assert int(last) in range(20)
    await asyncio.gather(*(kv.put("tnt_a", "k", b"again", f"op{n}") for n in range(20)))
    assert await kv.get("tnt_a", "k") == last


async def test_the_tools_keep_and_read_json(kv: KeyValue) -> None:
    tools = Tools([kv_put_tool(kv), kv_get_tool(kv)])
    value = {"a": [1, 2.5, None, "ü\n"]}
    put = await tools.call(caller(), call("tool.kv.put", key="k", value=value))
    again = await tools.call(caller(), call("tool.kv.put", key="k", value=value))
    assert put == again
    assert await tools.call(caller(), call("tool.kv.get", key="k")) == {
        "key": "k",
        "found": True,
        "value": value,
    }
    assert await tools.call(caller("tnt_b"), call("tool.kv.get", key="k")) == {
        "key": "k",
        "found": False,
        "value": None,
    }


async def test_the_tools_refuse_what_does_not_fit(kv: KeyValue) -> None:
    tools = Tools([kv_put_tool(kv), kv_get_tool(kv)])
    largest = "x" * (MAX_VALUE_BYTES - 2)
    await tools.call(caller(), call("tool.kv.put", key="k", value=largest))
    with pytest.raises(PayloadTooLargeError):
        await tools.call(caller(), call("tool.kv.put", "op2", key="k", value=largest + "x"))
    for key in ("", "x" * 257, "a\nb", "\x00"):
        with pytest.raises(InvalidRequestError):
            await tools.call(caller(), call("tool.kv.get", key=key))


async def test_it_survives_a_crash_of_the_broker_and_says_when_it_is_gone(
    own_nats_server: EmbeddedNats,
) -> None:
    client = await connect(own_nats_server)
    try:
        kv = await JetStreamKeyValue.open(client.jetstream(timeout=0.5))
        await kv.put("tnt_a", "k", b"1", "op1")
        own_nats_server.kill()
        with pytest.raises(DependencyUnavailableError) as caught:
            await kv.put("tnt_a", "k", b"2", "op2")
        assert caught.value.details["dependency"] == "nats"
        own_nats_server.start()
    finally:
        await client.close()
    client = await connect(own_nats_server)
    try:
        kv = await JetStreamKeyValue.open(client.jetstream())
        assert await kv.get("tnt_a", "k") == b"1"
        await kv.put("tnt_a", "k", b"2", "op2")
        await kv.put("tnt_a", "k", b"1", "op1")
        assert await kv.get("tnt_a", "k") == b"2"
    finally:
        await client.close()


async def test_a_tenant_that_is_none_reaches_no_subject(nats_server: EmbeddedNats) -> None:
    client = await connect(nats_server)
    try:
        kv = await JetStreamKeyValue.open(client.jetstream(), bucket=f"kv_{uuid4().hex}")
        for tenant in ("tnt_a.b", "*", ">", "tnt_a b", ""):
            with pytest.raises(InvalidRequestError):
                await kv.get(tenant, "k")
    finally:
        await client.close()
