"""Policies about persons and places over the whole way of a call; the last with a real model."""

from collections.abc import Iterable
from typing import Any, Final

import aiohttp
import pytest

from agentos.domain.errors import PolicyBlockedError
from agentos.domain.ports import ChatMessage, ModelRequest, RequestedToolCall
from agentos.infra.names import ModelNames, installed_names
from tests.domain.policy.given_names import FewNames
from tests.gateways.conftest import token
from tests.gateways.model_policy.world import (
    World,
    a_door,
    a_world,
    caller,
    chat,
    embed,
    new_id,
    openai_catalog,
)
from tests.infra.models.openai_server import (
    OPENAI,
    OpenAIServer,
    embeddings,
    openai_server,
    text_stream,
)

HIDE: Final = {
    "name": "hide",
    "effect": "redact",
    "when": {"pii_types": ["person", "location", "email"]},
}
NO_PERSONS: Final = {"name": "none", "effect": "block", "when": {"pii_types": ["person"]}}


async def made_ready(world: World, upstream: OpenAIServer, rule: Any = HIDE) -> None:
    """Publish the catalog and the policy."""
    document = openai_catalog(upstream.base_url)
    document["models"][0]["capabilities"] = ["chat", "embed"]
    await world.catalog(**document)
    await world.policy(rule)


async def test_names_do_not_reach_the_model_and_do_not_come_back() -> None:
    finder = FewNames()
    async with a_world() as world, openai_server(text_stream("Bo ", "is in Oslo")) as upstream:
        await made_ready(world, upstream)
        async with world.services(names=finder) as services:
            done = await services.pipeline.chat(caller(), chat("Ann went to Rome", "a/m"))
        assert upstream.bodies[0]["messages"][0]["content"] == "[PERSON] went to [LOCATION]"
        assert done.answer.content == "[PERSON] is in [LOCATION]"
        assert done.outcome.decision == "redacted"
        (usage,) = await world.written(1)
        assert usage.policy is not None
        assert usage.policy.findings == {
            "input": {"person": 1, "location": 1},
            "output": {"person": 1, "location": 1},
        }


async def test_whatever_is_searched_was_prepared_before() -> None:
    """The search of a model takes long: nobody's turn may pass while it is made."""
    finder = FewNames()
    call = RequestedToolCall("call_1", "f", "f", {"to": "Ann"})
    messages = [
        ChatMessage("user", "for Bo"),
        ChatMessage("assistant", "in Oslo", tool_calls=(call,)),
        ChatMessage("tool", "it is Rome", "call_1"),
    ]
    async with a_world() as world, openai_server(OPENAI.calls([("f", '{"to": "Bo"}')])) as upstream:
        await made_ready(world, upstream, NO_PERSONS | {"effect": "allow"})
        async with world.services(names=finder) as services:
            for listener in (None, lambda _: None):
                asked = ModelRequest(new_id("req"), "a/m", messages)
                await services.pipeline.chat(caller(), asked, listener)
    assert {"for Bo", "Ann", "it is Rome", "Bo"} <= set(finder.asked)
    assert set(finder.asked) <= set(finder.prepared)


async def test_a_stream_comes_in_one_piece_once_all_of_it_was_searched() -> None:
    seen: list[str] = []
    reply = text_stream("An", "n is ", "in ", "Ro", "me, says bo@example.com")
    async with a_world() as world, openai_server(reply) as upstream:
        await made_ready(world, upstream)
        async with world.services(names=FewNames()) as services:
            done = await services.pipeline.chat(caller(), chat("hi", "a/m"), seen.append)
    assert seen == ["[PERSON] is in [LOCATION], says [EMAIL]"]
    assert done.answer.content == seen[0]


async def test_a_stream_that_is_blocked_shows_nothing_and_is_charged() -> None:
    seen: list[str] = []
    async with a_world() as world, openai_server(text_stream("it is ", "Ann ", "!")) as upstream:
        await made_ready(world, upstream, NO_PERSONS)
        async with world.services(names=FewNames()) as services:
            with pytest.raises(PolicyBlockedError):
                await services.pipeline.chat(caller(), chat("hi", "a/m"), seen.append)
        assert seen == []
        (usage,) = await world.written(1)
        assert (usage.status, usage.usage.total_tokens) == ("blocked", 18)


async def test_a_stream_that_reaches_its_limit_is_searched_too() -> None:
    seen: list[str] = []
    finder = FewNames()
    reply = text_stream(*["Ann "] * 50)
    async with a_world() as world, openai_server(reply) as upstream:
        await made_ready(world, upstream)
        async with world.services(names=finder) as services:
            asked = chat("hi", "a/m", max_output_tokens=10)
            done = await services.pipeline.chat(caller(), asked, seen.append)
    assert "stopped:reservation_reached" in done.outcome.reasons
    assert "Ann" not in "".join(seen)
    assert set(finder.asked) <= set(finder.prepared)


async def test_texts_to_embed() -> None:
    finder = FewNames()
    async with a_world() as world, openai_server(embeddings([[0.5, 0.25]])) as upstream:
        await made_ready(world, upstream)
        async with world.services(names=finder) as services:
            await services.pipeline.embed(caller(), embed("Ann in Rome", model="a/m"))
        assert "Ann" not in str(upstream.bodies)
    assert set(finder.asked) == set(finder.prepared) == {"Ann in Rome"}


async def test_without_a_finder_nothing_passes() -> None:
    async with a_world() as world, openai_server() as upstream:
        await made_ready(world, upstream)
        async with world.services() as services:
            with pytest.raises(PolicyBlockedError) as raised:
                await services.pipeline.chat(caller(), chat("hi", "a/m"))
        assert raised.value.details["reasons"] == ["policy_unusable:pol_a@1"]
        assert not upstream.bodies


class Refusing(FewNames):
    """A finder that has too much to do."""

    async def prepare(self, texts: Iterable[str]) -> None:
        """Refuse."""
        raise PolicyBlockedError("too much", reasons=["names:too_much_text"])


async def test_what_cannot_be_searched_does_not_pass() -> None:
    async with a_world() as world, openai_server() as upstream:
        await made_ready(world, upstream)
        async with world.services(names=Refusing()) as services:
            with pytest.raises(PolicyBlockedError):
                await services.pipeline.chat(caller(), chat("hi", "a/m"))
        assert not upstream.bodies
        (usage,) = await world.written(1)
        assert (usage.status, usage.usage.total_tokens) == ("blocked", 0)


@pytest.fixture
def names() -> ModelNames:
    found = installed_names()
    assert found is not None, "`make install` installs the model"
    return found


async def test_the_real_model_at_the_doors(names: ModelNames) -> None:
    text = "Please write to John Smith in New York about the invoice."
    hidden = "Please write to [PERSON] in [LOCATION] about the invoice."
    headers = {"Authorization": f"Bearer {token(tenant_id='tnt_a')}"}
    async with a_world() as world, openai_server() as upstream:
        await made_ready(world, upstream)
        async with (
            world.services(names=names) as services,
            a_door(services) as door,
            aiohttp.ClientSession(door.url, headers=headers) as http,
        ):
            check = {
                "request_id": "r",
                "content": {"type": "text", "text": text},
                "ruleset": "pol_a",
            }
            async with http.post("/v1/policy:check", json={"policy_check": check}) as answer:
                found = (await answer.json())["policy_result"]
            assert [r["type"] for r in found["redactions"]] == ["person", "location"]
            body = {"model": "a/m", "messages": [{"role": "user", "content": text}]}
            async with http.post("/v1/chat/completions", json=body) as answer:
                said = (await answer.json())["choices"][0]["message"]["content"]
            assert upstream.bodies[0]["messages"][0]["content"] == said == hidden
