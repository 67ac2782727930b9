"""What holds for every model behind `ModelPort`."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from agentos.domain.errors import ForbiddenError, InvalidRequestError, TimedOutError
from agentos.domain.ports import ModelPort
from agentos.infra.models.gateway_client import GatewayModels
from tests.gateways.conftest import SECRET
from tests.gateways.model_policy.world import a_door, a_world
from tests.infra.models.openai_server import Reply, echo, hang, openai_server
from tests.infra.models.requests import caller, request

MODELS = ["builtin/echo", "builtin/scripted", "builtin/sleep", "openai/fake"]
# builtin/echo is never busy; "openai/fake" hangs in `busy_models`, whatever is asked
BUSY_MODELS = MODELS[1:]
BUSY = "sleep 30000"


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=MODELS)
def model_ref(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def models(stack: AsyncExitStack) -> ModelPort:
    return await _through_the_gateway(stack, echo)


@pytest.fixture
async def busy_models(stack: AsyncExitStack) -> ModelPort:
    return await _through_the_gateway(stack, hang)


async def _through_the_gateway(stack: AsyncExitStack, reply: Reply) -> ModelPort:
    """Return the port as an executor has it: a client of a model door."""
    server = await stack.enter_async_context(openai_server(reply))
    world = await stack.enter_async_context(a_world())
    backend = {"name": "openai", "kind": "openai", "base_url": server.base_url, "any_model": True}
    await world.catalog(backends=[backend], models=[], routes=[])
    services = await stack.enter_async_context(world.services())
    door = await stack.enter_async_context(a_door(services))
    models = GatewayModels(door.url, SECRET)
    stack.push_async_callback(models.aclose)
    return models


@pytest.mark.parametrize("text", ["hello", "two\n\nlines ", "ünïcödé 🎈", "x" * 20_000])
async def test_the_answer_is_whole_and_says_who_gave_it(
    models: ModelPort, model_ref: str, text: str
) -> None:
    answer = await models.invoke(caller(), request(model_ref, text))
    assert answer.content == text
    assert answer.tool_calls == ()
    assert answer.backend == model_ref.partition("/")[0]
    assert answer.model
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0
    assert answer.cost_usd >= 0


async def test_the_deltas_are_the_answer_in_pieces(models: ModelPort, model_ref: str) -> None:
    seen: list[str] = []
    answer = await models.invoke(caller(), request(model_ref, "a b\nc "), seen.append)
    assert "".join(seen) == answer.content
    assert all(seen)


async def test_only_the_last_user_message_is_answered(models: ModelPort, model_ref: str) -> None:
    asked = request(model_ref, "first")
    asked = replace(asked, messages=[*asked.messages, *request(model_ref, "second").messages])
    assert (await models.invoke(caller(), asked)).content == "second"


async def test_the_scope_is_required(models: ModelPort, model_ref: str) -> None:
    with pytest.raises(ForbiddenError) as caught:
        await models.invoke(caller(scopes=frozenset()), request(model_ref, "x"))
    assert caught.value.details["required_scope"] == "models:invoke"


async def test_a_backend_without_a_model_name_is_invalid(models: ModelPort, model_ref: str) -> None:
    with pytest.raises(InvalidRequestError):
        await models.invoke(caller(), request(model_ref.partition("/")[0] + "/", "x"))


@pytest.mark.parametrize("model_ref", BUSY_MODELS)
async def test_the_time_limit_holds(busy_models: ModelPort, model_ref: str) -> None:
    began = time.monotonic()
    with pytest.raises(TimedOutError):
        await busy_models.invoke(caller(), request(model_ref, BUSY, timeout_ms=50))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("model_ref", BUSY_MODELS)
async def test_cancellation_stops_the_call(busy_models: ModelPort, model_ref: str) -> None:
    call = asyncio.create_task(busy_models.invoke(caller(), request(model_ref, BUSY)))
    done, _ = await asyncio.wait([call], timeout=0.1)
    assert not done
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 2)


async def test_many_calls_at_once_do_not_mix(models: ModelPort, model_ref: str) -> None:
    texts = [f"text {n}" for n in range(50)]
    answers = await asyncio.gather(
        *(
            models.invoke(caller(), request(model_ref, text, request_id=f"request {number}"))
            for number, text in enumerate(texts)
        )
    )
    assert [answer.content for answer in answers] == texts
