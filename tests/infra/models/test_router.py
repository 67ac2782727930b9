import time

import pytest

from agentos.domain.errors import AgentOSError, ForbiddenError, InvalidRequestError, ProviderError
from agentos.domain.ports import ModelAnswer
from agentos.infra.models.router import build_models
from tests.infra.models.openai_server import (
    Reply,
    abort,
    chunk,
    openai_server,
    status,
    stream,
    text_stream,
)
from tests.infra.models.requests import caller, request


async def ask(*replies: Reply, timeout_ms: int = 10_000) -> tuple[int, ModelAnswer | AgentOSError]:
    """Return how often a server was asked, and what came of it."""
    async with openai_server(*replies) as server:
        models = build_models(openai_base_url=server.base_url)
        try:
            asked = request("openai/m", "hi", timeout_ms=timeout_ms)
            answer: ModelAnswer | AgentOSError = await models.invoke(
                caller(), asked, lambda _: None
            )
        except AgentOSError as error:
            answer = error
        finally:
            await models.aclose()
        assert len({headers["Idempotency-Key"] for headers in server.headers}) == 1
        return len(server.bodies), answer


async def test_the_prefix_chooses_the_backend() -> None:
    async with openai_server(text_stream("from afar")) as server:
        models = build_models(openai_base_url=server.base_url, openai_models=["m"])
        try:
            near = await models.invoke(caller(), request("builtin/echo", "near"))
            far = await models.invoke(caller(), request("openai/m", "x"))
            with pytest.raises(InvalidRequestError):
                await models.invoke(caller(), request("openai/other", "x"))
        finally:
            await models.aclose()
    assert (near.content, far.content) == ("near", "from afar")
    assert len(server.bodies) == 1


@pytest.mark.parametrize("reply", [status(429, "slow"), status(503, "down"), abort])
async def test_a_passing_failure_is_tried_again(reply: Reply) -> None:
    times, answer = await ask(reply, reply, text_stream("ok"))
    assert times == 3
    assert isinstance(answer, ModelAnswer)


async def test_a_lasting_failure_is_tried_three_times() -> None:
    times, error = await ask(status(500, "down"))
    assert times == 3
    assert isinstance(error, ProviderError)


@pytest.mark.parametrize(
    "reply",
    [status(400, "bad"), status(401, "key"), stream([chunk({"content": "half"})], cut=True)],
)
async def test_what_will_not_pass_or_was_seen_in_part_is_not_tried_again(reply: Reply) -> None:
    times, error = await ask(reply, text_stream("ok"))
    assert times == 1
    assert isinstance(error, AgentOSError)


async def test_retry_after_is_honoured_as_far_as_the_time_allows() -> None:
    began = time.monotonic()
    assert (await ask(status(429, "slow", retry_after_ms="400"), text_stream("ok")))[0] == 2
    assert time.monotonic() - began >= 0.4
    assert (await ask(status(429, "slow", Retry_After="60"), timeout_ms=30_000))[0] == 1
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("ref", ["tier:fast", "echo", "openai/m", "/echo", "", "Builtin/echo"])
async def test_a_name_without_a_known_backend_is_invalid(ref: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await build_models().invoke(caller(), request(ref, "x"))
    assert caught.value.details["known_backends"] == ["builtin"]


async def test_without_the_scope_nothing_is_asked() -> None:
    auth = caller(scopes=frozenset({"tools:invoke"}))
    with pytest.raises(ForbiddenError) as caught:
        await build_models().invoke(auth, request("builtin/echo", "x"))
    assert caught.value.details == {"required_scope": "models:invoke"}
