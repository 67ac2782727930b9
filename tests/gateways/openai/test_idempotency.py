"""An `Idempotency-Key`: one call, however often it is asked for."""

import hashlib
import json
from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI

from agentos.domain.ids import derived_id
from tests.gateways.openai.conftest import ModelDoor

KEY = {"Idempotency-Key": "order-1"}
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def test_a_repeat_is_not_made_again(models: ModelDoor, openai: AsyncOpenAI) -> None:
    first, second = [
        await openai.chat.completions.create(extra_headers=KEY, **CHAT) for _ in range(2)
    ]
    assert first.id == second.id
    assert len(models.pipeline.asked) == 1


async def test_id_and_fingerprint(models: ModelDoor) -> None:
    headers = {"Authorization": f"Bearer {models.key}", **KEY}
    _, _, sent = await models.post("/v1/chat/completions", CHAT, headers)
    caller, request = models.pipeline.asked[0]
    assert request.request_id == derived_id(
        "req", "tnt_a", "usr_a", "POST /v1/chat/completions", "order-1"
    )
    assert caller.fingerprint == hashlib.sha256(json.dumps(CHAT).encode()).hexdigest()
    assert sent["X-Request-Id"] == request.request_id


async def test_a_repeat_as_a_stream_is_another_body(openai: AsyncOpenAI) -> None:
    await openai.chat.completions.create(extra_headers=KEY, **CHAT)
    with pytest.raises(sdk.ConflictError):
        await openai.chat.completions.create(extra_headers=KEY, stream=True, **CHAT)


async def test_a_repeated_stream_shows_the_first_answer(
    models: ModelDoor, openai: AsyncOpenAI
) -> None:
    texts = []
    for _ in range(2):
        chunks = await openai.chat.completions.create(extra_headers=KEY, stream=True, **CHAT)
        texts.append("".join([c.choices[0].delta.content or "" async for c in chunks]))
    assert texts == ["hi", "hi"]
    assert len(models.pipeline.asked) == 1


async def test_routes_do_not_share_keys(models: ModelDoor, openai: AsyncOpenAI) -> None:
    await openai.chat.completions.create(extra_headers=KEY, **CHAT)
    await openai.responses.create(model="m", input="hi", extra_headers=KEY)
    assert len({request.request_id for _, request in models.pipeline.asked}) == 2


@pytest.mark.parametrize("key", ["", "a\tb", "x" * 257])
async def test_a_key_that_does_not_fit(models: ModelDoor, key: str) -> None:
    headers = {"Authorization": f"Bearer {models.key}", "Idempotency-Key": key}
    status, answer, _ = await models.post("/v1/chat/completions", CHAT, headers)
    assert (status, answer["error"]["param"]) == (400, "header.Idempotency-Key")
    assert models.pipeline.asked == []
