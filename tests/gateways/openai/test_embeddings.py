"""Embeddings, asked by the official client."""

import asyncio
import base64
import struct
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from tests.gateways.openai.conftest import ModelDoor
from tests.gateways.openai.pipeline import vector_of


async def test_as_the_client_asks_for_them(models: ModelDoor, openai: AsyncOpenAI) -> None:
    answer = await openai.embeddings.create(model="tier:fast", input=["one", "two"])
    assert [(one.index, one.embedding) for one in answer.data] == [
        (0, vector_of("one", 8)),
        (1, vector_of("two", 8)),
    ]
    assert (answer.object, answer.model) == ("list", "memory/hash")
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (2, 2)
    assert (answer.model_extra or {})["agentos"]["route"]["backend"] == "memory"


async def test_as_numbers(openai: AsyncOpenAI) -> None:
    answer = await openai.embeddings.create(
        model="m", input="one", encoding_format="float", dimensions=40
    )
    assert answer.data[0].embedding == vector_of("one", 40)


async def test_base64_is_little_endian_float32(models: ModelDoor) -> None:
    body = {"model": "m", "input": "one", "encoding_format": "base64"}
    status, answer, headers = await models.post("/v1/embeddings", body)
    raw = base64.b64decode(answer["data"][0]["embedding"])
    assert status == 200
    assert list(struct.unpack("<8f", raw)) == vector_of("one", 8)
    assert headers["X-AgentOS-Model"] == "hash"


async def test_the_sync_client(models: ModelDoor) -> None:
    def ask() -> list[float]:
        with models.sync_client() as client:
            return client.embeddings.create(model="m", input="one").data[0].embedding

    assert await asyncio.to_thread(ask) == vector_of("one", 8)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": [1, 2, 3]}, "input[0]"),
        ({"input": [[1, 2], [3]]}, "input[0]"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": 5}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 10**9}, "dimensions"),
        ({"model": ""}, "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_does_not_fit(openai: AsyncOpenAI, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as raised:
        await openai.embeddings.create(**{"model": "m", "input": "a", **changes})
    assert (raised.value.code, raised.value.param) == ("invalid_request", param)


async def test_tokens_are_refused_with_a_reason(openai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="token numbers"):
        await openai.embeddings.create(model="m", input=[1, 2, 3])
