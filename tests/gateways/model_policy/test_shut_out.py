"""Whoever is shut out while a model answers gets no more of it: told why, and charged."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import orjson
import pytest

from agentos.domain.auth import USER_SCOPES, AuthContext, Principal
from agentos.domain.key.key import Grant, Key, hash_secret, key_ref, prefix_of
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.gateways.http.tenants import Accounts
from agentos.infra.models.gateway_client import RunTokens
from tests.gateways.conftest import SECRET, eventually, token
from tests.gateways.model_policy.world import Door, World, a_door, a_world, openai_catalog
from tests.infra.models.openai_server import OpenAIServer, hang, openai_server

MODEL: Final = "a/m"
MESSAGES: Final = [{"role": "user", "content": "go on for ever"}]
CANONICAL: Final = {
    "request": {
        "request_id": "req_1",
        "operation": "chat",
        "model_ref": MODEL,
        "input": {"messages": MESSAGES},
    },
    "stream": True,
}
BODIES: Final[dict[str, Any]] = {
    "/v1/models:invoke": CANONICAL,
    "/v1/chat/completions": {"model": MODEL, "messages": MESSAGES, "stream": True},
    "/v1/responses": {"model": MODEL, "input": "go on for ever", "stream": True},
}
DOORS: Final = pytest.mark.parametrize("path", BODIES)
KEY_ID: Final = "key_" + "0" * 25 + "1"
API_KEY: Final = "aos_" + "0" * 25 + "1" + "_" + "s" * 43


class Cut:
    """A door that goes by the log, and an upstream that begins an answer and never ends it."""

    def __init__(
        self, world: World, door: Door, upstream: OpenAIServer, accounts: Accounts
    ) -> None:
        self.world, self.door, self.upstream, self.accounts = world, door, upstream, accounts

    async def disable(self) -> None:
        """Disable the tenant; its runs drain."""
        log, ref = self.world.node.log, tenant_ref("tnt_a")
        tenant = Tenant(ref).fold(await log.read(ref))
        events = tenant.disable("drain", self.world.at())
        await self.world.node.write(ref, events, tenant.position)

    async def issue(self) -> None:
        """Give out an API key."""
        key = Key(key_ref("tnt_a", KEY_ID))
        principal = Principal(principal_id="usr_k")
        grant = Grant(
            name="k", principal=principal, scopes=("models:invoke",), roles=("tenant_user",)
        )
        prefix = prefix_of(API_KEY)
        events = key.issue(grant, prefix, hash_secret(API_KEY), self.world.at())
        await self.world.node.write(key.ref, events, 0)

    async def revoke(self) -> None:
        """Take it back."""
        ref = key_ref("tnt_a", KEY_ID)
        key = Key(ref).fold(await self.world.node.log.read(ref))
        await self.world.node.write(ref, key.revoke(self.world.at()), key.position)

    @property
    def streams(self) -> int:
        """How many streams the door says are open."""
        text = self.door.metrics.text().decode()
        line = next(n for n in text.splitlines() if n.startswith("agentos_sse_streams "))
        return int(float(line.split()[1]))

    @asynccontextmanager
    async def begun(self, path: str, bearer: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """A stream whose first text has come."""
        headers = {"Authorization": f"Bearer {bearer}"}
        async with (
            aiohttp.ClientSession(self.door.url) as http,
            http.post(path, json=BODIES[path], headers=headers) as answer,
        ):
            assert answer.status == 200
            while b"begin" not in await answer.content.readline():
                pass
            yield answer


@asynccontextmanager
async def a_cut() -> AsyncIterator[Cut]:
    async with a_world() as world, openai_server(hang) as upstream:
        await world.catalog(**openai_catalog(upstream.base_url))
        accounts = Accounts(world.node.log)
        following = asyncio.create_task(accounts.run())
        try:
            async with world.services() as services, a_door(services, 0, accounts) as door:
                yield Cut(world, door, upstream, accounts)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def rest_of(answer: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    """Return the data of every event to come, until the stream ends."""
    async with asyncio.timeout(20):
        raw = await answer.read()
    assert b"[DONE]" not in raw
    lines = [line for line in raw.split(b"\n") if line.startswith(b"data: ")]
    return [orjson.loads(line[6:]) for line in lines]


async def charged(cut: Cut) -> None:
    """Wait until the one call stands in the log, as one that broke off and cost what it used."""
    (usage,) = await cut.world.written(1)
    assert usage.status == "interrupted"
    assert usage.usage.input_tokens == 4
    assert usage.usage.output_tokens == 2  # of `begin `
    assert usage.cost_usd > 0


@DOORS
async def test_a_disabled_tenant_s_stream_is_cut(path: str) -> None:
    async with a_cut() as cut, cut.begun(path, token(tenant_id="tnt_a")) as answer:
        assert cut.streams == 1
        await cut.disable()
        events = await rest_of(answer)
        assert events[-1]["error"]["code"] == "tenant_disabled"
        if path == "/v1/responses":
            assert events[-2]["response"]["error"]["code"]
        await asyncio.wait_for(cut.upstream.left.wait(), 20)
        await charged(cut)
        await eventually(lambda: cut.streams == 0)


@DOORS
async def test_a_revoked_key_s_stream_is_cut(path: str) -> None:
    async with a_cut() as cut:
        await cut.issue()
        async with cut.begun(path, API_KEY) as answer:
            await cut.revoke()
            assert (await rest_of(answer))[-1]["error"]["code"] == "unauthorized"
            await asyncio.wait_for(cut.upstream.left.wait(), 20)
            await charged(cut)


@DOORS
async def test_the_stream_of_another_caller_goes_on(path: str) -> None:
    async with a_cut() as cut:
        await cut.issue()
        async with cut.begun(path, token(tenant_id="tnt_a")) as answer:
            await cut.revoke()
            await eventually(lambda: cut.accounts.keys[KEY_ID].key.status == "revoked")
            assert cut.streams == 1
            assert not cut.upstream.left.is_set()
            assert not answer.content.at_eof()


async def test_a_run_s_stream_drains() -> None:
    auth = AuthContext(
        tenant_id="tnt_a", principal=Principal(principal_id="usr_a"), scopes=USER_SCOPES
    )
    bearer = RunTokens(SECRET).of(auth)
    async with a_cut() as cut, cut.begun("/v1/models:invoke", bearer) as answer:
        async with cut.begun("/v1/chat/completions", token(tenant_id="tnt_a")) as other:
            await cut.disable()
            assert (await rest_of(other))[-1]["error"]["code"] == "tenant_disabled"
        assert cut.streams == 1
        assert not answer.content.at_eof()


async def test_a_stream_that_had_not_begun_is_refused_in_its_door_s_shape() -> None:
    async with a_cut() as cut:
        cut.upstream.replies[:] = [silent]
        headers = {"Authorization": f"Bearer {token(tenant_id='tnt_a')}"}
        path = "/v1/chat/completions"
        async with aiohttp.ClientSession(cut.door.url) as http:
            asking = asyncio.create_task(http.post(path, json=BODIES[path], headers=headers))
            await asyncio.wait_for(cut.upstream.asked.wait(), 20)
            await cut.disable()
            async with await asyncio.wait_for(asking, 20) as answer:
                assert answer.status == 403
                assert (await answer.json())["error"]["code"] == "tenant_disabled"


async def silent(request: Any) -> Any:
    """Never answer."""
    await asyncio.sleep(60)
