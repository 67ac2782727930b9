"""The head of a streamed answer leaves with the first text, and says what is known by then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import orjson
import pytest

from tests.gateways.conftest import token
from tests.gateways.model_policy.world import World, a_door, a_world, openai_catalog
from tests.infra.models.openai_server import (
    OPENAI,
    OpenAIServer,
    abort,
    hang,
    openai_server,
    text_stream,
)

PATHS: Final = ("/v1/chat/completions", "/v1/responses")
OWN: Final = ("backend", "model", "policy", "cost-usd")


class Asked:
    """A world with two upstreams, tried one behind the other."""

    def __init__(
        self, world: World, http: aiohttp.ClientSession, first: OpenAIServer, second: OpenAIServer
    ) -> None:
        self.world, self.http, self.first, self.second = world, http, first, second

    def post(self, path: str, text: str, key: str | None = None, **more: Any) -> Any:
        """Ask for a stream."""
        asked = {"input": text} if path == "/v1/responses" else {"messages": [user(text)]}
        headers = {"Authorization": f"Bearer {token(tenant_id='tnt_a')}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        body = {"model": "chain", "stream": True, **asked, **more}
        return self.http.post(path, json=body, headers=headers)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def own(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """Return AgentOS's headers of an answer."""
    names = {name: answer.headers.get(f"X-AgentOS-{name}") for name in OWN}
    return {name: value for name, value in names.items() if value is not None}


@asynccontextmanager
async def asked() -> AsyncIterator[Asked]:
    async with (
        a_world() as world,
        openai_server() as first,
        openai_server() as second,
    ):
        await world.catalog(**openai_catalog(first.base_url, second.base_url))
        async with (
            world.services() as services,
            a_door(services) as door,
            aiohttp.ClientSession(door.url) as http,
        ):
            yield Asked(world, http, first, second)


@pytest.mark.parametrize("path", PATHS)
async def test_the_head_is_there_with_the_first_text(path: str) -> None:
    """The upstream sends one piece and no more: whoever waits for the rest waits for ever."""
    async with asked() as it:
        it.first.replies[:] = [hang]
        async with asyncio.timeout(20), it.post(path, "hello") as answer:
            assert own(answer) == {"backend": "a", "model": "m", "policy": "allowed"}
            while b"begin" not in await answer.content.readline():
                pass


@pytest.mark.parametrize("path", PATHS)
async def test_it_names_who_answers_and_what_policy_did(path: str) -> None:
    async with asked() as it:
        it.first.replies[:] = [abort]
        it.second.replies[:] = [text_stream("one ", "two")]
        async with it.post(path, "mail ann@example.com") as answer:
            assert own(answer) == {"backend": "b", "model": "m", "policy": "redacted"}
            await answer.read()


async def test_the_cost_stands_in_the_last_chunk() -> None:
    async with asked() as it:
        it.first.replies[:] = [text_stream("call +49 30 ", "1234567 now")]
        async with it.post("/v1/chat/completions", "hello") as answer:
            assert own(answer)["policy"] == "allowed"
            lines = [n for n in (await answer.read()).split(b"\n") if n.startswith(b"data: {")]
        last = orjson.loads(lines[-1][6:])
        assert last["agentos"]["cost_usd"] == pytest.approx((11 * 2 + 7 * 8) / 1e6)
        assert last["agentos"]["policy_outcome"]["decision"] == "redacted"


async def test_a_stream_of_calls_alone_has_the_cost_in_its_head() -> None:
    async with asked() as it:
        it.first.replies[:] = [OPENAI.calls([("f", '{"x": 1}')])]
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        async with it.post("/v1/chat/completions", "hello", tools=[tool]) as answer:
            assert own(answer) == {
                "backend": "a",
                "model": "m",
                "policy": "allowed",
                "cost-usd": "0.000058",
            }
            assert b"[DONE]" in await answer.read()


async def test_a_repeat_says_who_answered_the_first_time() -> None:
    async with asked() as it:
        it.first.replies[:] = [text_stream("once")]
        heads = []
        for _ in range(2):
            async with it.post("/v1/chat/completions", "hello", key="k1") as answer:
                heads.append(own(answer))
                assert b"[DONE]" in await answer.read()
        assert heads[0] == heads[1] == {"backend": "a", "model": "m", "policy": "allowed"}
        assert len(it.first.bodies) == 1
