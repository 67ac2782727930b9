"""The runtime's way to models: through a real door, whatever happens to it meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agentos.domain.auth import USER_SCOPES, AuthContext, Principal
from agentos.domain.errors import (
    DependencyUnavailableError,
    InvalidRequestError,
    PolicyBlockedError,
    ProviderError,
    QuotaExceededError,
    TimedOutError,
)
from agentos.domain.ports import CallOrigin, ChatMessage, ModelRequest, ToolOffer
from agentos.infra.models.gateway_client import GatewayModels
from tests.gateways.conftest import SECRET
from tests.gateways.model_policy.world import World, a_door, a_world, new_id, openai_catalog
from tests.infra.embedded import reserved_port
from tests.infra.models.openai_server import chunk, hang, openai_server, stream, text_stream

AUTH = AuthContext(tenant_id="tnt_a", principal=Principal(principal_id="usr_a"), scopes=USER_SCOPES)


def chat(text: str, model: str = "builtin/echo", timeout_ms: int = 20_000) -> ModelRequest:
    origin = CallOrigin("agt_a", "run_1", {"team": "blue"}, is_first=True)
    return ModelRequest(
        new_id("req"), model, [ChatMessage("user", text)], timeout_ms=timeout_ms, origin=origin
    )


@asynccontextmanager
async def through_a_door() -> AsyncIterator[tuple[World, GatewayModels]]:
    async with a_world() as world, world.services() as services, a_door(services) as door:
        models = GatewayModels(door.url, SECRET)
        try:
            yield world, models
        finally:
            await models.aclose()


async def test_it_answers_as_the_runs_principal() -> None:
    async with through_a_door() as (world, models):
        answer = await models.invoke(AUTH, chat("hello ann@example.com"))
        assert answer.content == "hello [EMAIL]"
        assert (answer.backend, answer.model, answer.node) == ("builtin", "echo", "stk_a")
        assert answer.gates is not None
        assert answer.gates["decision"] == "redacted"
        (usage,) = await world.written(1)
        assert (await world.usage_events())[0].principal == AUTH.principal
        assert (usage.agent_id, usage.run_id) == ("agt_a", "run_1")


async def test_a_call_is_a_part_of_its_step() -> None:
    async with through_a_door() as (world, models):
        step = f"00-{'4' * 32}-{'b' * 16}-01"
        request = chat("hello")
        assert request.origin is not None
        origin = replace(request.origin, traceparent=step)
        await models.invoke(AUTH, replace(request, origin=origin))
        (usage,) = await world.written(1)
        (event,) = await world.usage_events()
        assert event.trace.traceparent[:36] == step[:36]
        assert event.trace.span_id == event.trace.traceparent[36:52] != step[36:52]
        assert usage.parent_span_id == step[36:52]
        assert usage.ended_ms is not None
        assert usage.ended_ms <= event.time


async def test_pieces_come_as_they_are_streamed() -> None:
    async with (
        through_a_door() as (world, models),
        openai_server(text_stream("one ", "two ", "three")) as server,
    ):
        await world.catalog(**openai_catalog(server.base_url))
        seen: list[str] = []
        answer = await models.invoke(AUTH, chat("hi", "a/m"), seen.append)
        assert answer.content == "".join(seen) == "one two three"


async def test_tools_go_there_and_calls_come_back() -> None:
    async with through_a_door() as (_, models):
        tool = ToolOffer("tool.calculate", "tool.calculate", "counts", {"type": "object"})
        request = replace(chat("calculate 1 + 1", "builtin/scripted"), tools=[tool])
        first = await models.invoke(AUTH, request)
        (call,) = first.tool_calls
        assert (call.tool_id, call.arguments) == ("tool.calculate", {"expression": "1 + 1"})
        behind = [
            *request.messages,
            ChatMessage("assistant", "", tool_calls=first.tool_calls),
            ChatMessage("tool", "2", call.tool_call_id),
        ]
        second = replace(request, request_id=new_id("req"), messages=behind)
        assert (await models.invoke(AUTH, second)).content == "2"


async def test_what_the_gates_say_is_raised() -> None:
    async with through_a_door() as (world, models):
        with pytest.raises(InvalidRequestError):
            await models.invoke(AUTH, chat("hi", "no/such"))
        rule = {
            "name": "no",
            "effect": "block",
            "when": {"content_patterns": [{"name": "plan", "regex": "secret plan"}]},
        }
        await world.policy(rule)
        budget = {"token_budget": {"window": "day", "max_tokens": 10}}
        await world.tenant(quotas={"models": budget}, default_policy_id="pol_a")
        with pytest.raises(QuotaExceededError):
            await models.invoke(AUTH, chat("x" * 400))
        with pytest.raises((PolicyBlockedError, QuotaExceededError)):
            await models.invoke(AUTH, chat("the secret plan"))


async def test_a_stream_that_breaks_off_upstream_fails_the_call() -> None:
    async with (
        through_a_door() as (world, models),
        openai_server(stream([chunk({"content": "half"})], done=False)) as server,
    ):
        await world.catalog(**openai_catalog(server.base_url))
        with pytest.raises(ProviderError) as broken:
            await models.invoke(AUTH, chat("hi", "a/m"), lambda _: None)
        assert broken.value.details["stage"] == "stream"


async def test_its_time_is_kept_and_the_call_upstream_stopped() -> None:
    async with through_a_door() as (world, models), openai_server(hang) as server:
        await world.catalog(**openai_catalog(server.base_url))
        with pytest.raises(TimedOutError):
            await models.invoke(AUTH, chat("hi", "a/m", timeout_ms=300))
        async with asyncio.timeout(5):
            await server.left.wait()


async def test_cancelling_stops_the_call_upstream() -> None:
    async with through_a_door() as (world, models), openai_server(hang) as server:
        await world.catalog(**openai_catalog(server.base_url))
        call = asyncio.create_task(models.invoke(AUTH, chat("hi", "a/m"), lambda _: None))
        async with asyncio.timeout(5):
            await server.asked.wait()
            call.cancel()
            await server.left.wait()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_gateway_that_is_away_is_waited_for() -> None:
    port = reserved_port()
    models = GatewayModels(f"http://127.0.0.1:{port}", SECRET)
    try:
        async with a_world() as world, world.services() as services:
            call = asyncio.create_task(models.invoke(AUTH, chat("hello")))
            done, _ = await asyncio.wait([call], timeout=0.3)
            assert not done
            async with a_door(services, port):
                assert (await call).content == "hello"
        with pytest.raises(DependencyUnavailableError):
            await models.invoke(AUTH, chat("hello", timeout_ms=300))
    finally:
        await models.aclose()


async def test_asked_again_under_its_id_it_is_not_billed_again() -> None:
    async with through_a_door() as (world, models):
        request = chat("hello")
        first = await models.invoke(AUTH, request)
        assert request.origin is not None
        origin = replace(request.origin, is_first=False)
        again = await models.invoke(AUTH, replace(request, origin=origin))
        assert again == first
        assert len(await world.written(1)) == 1
