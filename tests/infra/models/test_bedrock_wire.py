"""What Bedrock's Converse and InvokeModel are asked, to the letter, and what answers come to."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from agentos.domain.errors import AgentOSError, InvalidRequestError, TimedOutError
from agentos.domain.ports import ChatMessage, EmbedRequest, ModelRequest
from tests.infra.models.backends import served
from tests.infra.models.bedrock_server import (
    BEDROCK,
    answer,
    cohere_embeddings,
    either,
    event,
    events,
    json_of,
    text,
    text_events,
)
from tests.infra.models.conversation import SCHEMA, everything
from tests.infra.models.requests import caller, request


def used(call_id: str, city: str) -> dict[str, Any]:
    return {"toolUse": {"toolUseId": call_id, "name": "get_weather", "input": {"city": city}}}


def result(call_id: str, said: str) -> dict[str, Any]:
    return {"toolResult": {"toolUseId": call_id, "content": [{"text": said}]}}


BODY: dict[str, Any] = {
    "system": [{"text": "be brief\n\nspeak English"}],
    "messages": [
        {"role": "user", "content": [{"text": "how is it in Rome and Oslo?"}]},
        {
            "role": "assistant",
            "content": [{"text": "I look."}, used("tcall_1", "Rome"), used("tcall_2", "Oslo")],
        },
        {
            "role": "user",
            "content": [result("tcall_1", '{"sky": "blue"}'), result("tcall_2", "no such city")],
        },
        {"role": "assistant", "content": [{"text": "Rome is fine."}]},
        {"role": "user", "content": [{"text": "and the time?"}, {"text": "in UTC"}]},
    ],
    "toolConfig": {
        "tools": [
            {
                "toolSpec": {
                    "name": "get_weather",
                    "description": "tells the weather",
                    "inputSchema": {"json": SCHEMA},
                }
            },
            {
                "toolSpec": {
                    "name": "tool_clock_now",
                    "inputSchema": {"json": {"type": "object", "properties": {}}},
                }
            },
        ],
        "toolChoice": {"auto": {}},
    },
    "inferenceConfig": {
        "maxTokens": 200,
        "temperature": 0.5,
        "topP": 0.9,
        "stopSequences": ["END", "STOP"],
    },
}
MODEL = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_request_to_the_letter(streamed: bool) -> None:
    async with served(BEDROCK, text("ok")) as (server, backend):
        await backend.chat(caller(), MODEL, everything(), (lambda _: None) if streamed else None)
    assert server.bodies == [BODY]
    operation = "converse-stream" if streamed else "converse"
    assert server.paths == [f"/model/{MODEL.replace(':', '%3A')}/{operation}"]
    headers = {name.lower(): value for name, value in server.headers[0].items()}
    signed = headers["authorization"]
    assert signed.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLEAKIDEX/")
    assert "/eu-west-1/bedrock/aws4_request" in signed
    assert headers["x-amz-security-token"] == "a-session-token"
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("choice", "wire"),
    [
        (None, None),
        ("auto", {"auto": {}}),
        ("required", {"any": {}}),
        ("tool.clock.now", {"tool": {"name": "tool_clock_now"}}),
    ],
)
async def test_tool_choice(choice: str | None, wire: Any) -> None:
    async with served(BEDROCK, text("ok")) as (server, backend):
        await backend.chat(caller(), "m", everything(choice))
    assert server.bodies[0]["toolConfig"].get("toolChoice") == wire


async def test_no_tool_choice_none() -> None:
    """The format has none: without earlier calls the tools are left out, else it is refused."""
    plain = ModelRequest(
        "req_1", "there/m", [ChatMessage("user", "hi")], everything().tools, tool_choice="none"
    )
    async with served(BEDROCK, text("ok")) as (server, backend):
        await backend.chat(caller(), "m", plain)
        with pytest.raises(InvalidRequestError, match="no tool_choice none"):
            await backend.chat(caller(), "m", everything("none"))
    assert server.bodies == [{"messages": [{"role": "user", "content": [{"text": "hi"}]}]}]


async def test_a_tool_that_said_nothing() -> None:
    behind = [
        ChatMessage("assistant", "", tool_calls=everything().messages[3].tool_calls[:1]),
        ChatMessage("tool", "", "tcall_1"),
    ]
    async with served(BEDROCK, text("ok")) as (server, backend):
        asked = request("there/m", "hi", behind=behind, tools=everything().tools)
        await backend.chat(caller(), "m", asked)
    assert server.bodies[0]["messages"][-1]["content"] == [
        {"toolResult": {"toolUseId": "tcall_1", "content": [{"json": {"result": ""}}]}}
    ]


async def test_structured_output() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": SCHEMA}}
    async with served(BEDROCK, text("{}")) as (server, backend):
        await backend.chat(caller(), "m", everything(response_format=form))
    asked = server.bodies[0]["outputConfig"]["textFormat"]
    assert asked["type"] == "json_schema"
    assert json.loads(asked["structure"]["jsonSchema"]["schema"]) == SCHEMA


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
    ],
)
async def test_why_an_answer_ended(reason: str, ours: str, streamed: bool) -> None:
    async with served(BEDROCK, text("a", stop_reason=reason)) as (_, backend):
        listener = (lambda _: None) if streamed else None
        done = await backend.chat(caller(), "m", request("there/m", "hi"), listener)
    assert done.finish_reason == ours


async def test_a_model_that_gives_up_is_no_answer() -> None:
    async with served(BEDROCK, text("a", stop_reason="malformed_tool_use")) as (_, backend):
        with pytest.raises(AgentOSError) as raised:
            await backend.chat(caller(), "m", request("there/m", "hi"))
    assert raised.value.code == "provider_error"


async def test_what_the_cache_takes_and_gives_is_input_too() -> None:
    cached = {
        "inputTokens": 10,
        "cacheReadInputTokens": 1000,
        "cacheWriteInputTokens": 100,
        "outputTokens": 5,
        "totalTokens": 1115,
    }
    whole = answer([{"text": "a"}], "end_turn", (0, 0)) | {"usage": cached}
    streamed = events(
        *text_events("a"),
        event("messageStop", {"stopReason": "end_turn"}),
        event("metadata", {"usage": cached, "metrics": {"latencyMs": 1}}),
    )
    async with served(BEDROCK, either(json_of(whole), streamed)) as (_, backend):
        for listener in (None, lambda _: None):
            done = await backend.chat(caller(), "m", request("there/m", "hi"), listener)
            assert (done.usage.input_tokens, done.usage.output_tokens) == (1110, 5)


async def test_thoughts_and_blocks_nobody_knows_are_passed_over() -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}}
    whole = answer([thought, {"text": "yes"}, {"newThing": {}}], "end_turn", (3, 9))
    streamed = events(
        event("messageStart", {"role": "assistant"}),
        event(
            "contentBlockDelta",
            {"delta": {"reasoningContent": {"text": "hm"}}, "contentBlockIndex": 0},
        ),
        event("newThing", {"x": 1}),
        event("contentBlockDelta", {"delta": {"text": "yes"}, "contentBlockIndex": 1}),
        event("messageStop", {"stopReason": "end_turn"}),
        event("metadata", {"usage": whole["usage"], "metrics": {"latencyMs": 1}}),
    )
    async with served(BEDROCK, either(json_of(whole), streamed)) as (_, backend):
        for listener in (None, lambda _: None):
            done = await backend.chat(caller(), "m", request("there/m", "hi"), listener)
            assert (done.content, done.usage.output_tokens) == ("yes", 9)


@pytest.mark.parametrize("dimensions", [None, 256])
async def test_titan_s_embeddings_to_the_letter(dimensions: int | None) -> None:
    size = {} if dimensions is None else {"dimensions": dimensions}
    reply = json_of({"embedding": [0.5] * (dimensions or 2), "inputTextTokenCount": 3})
    async with served(BEDROCK, reply) as (server, backend):
        asked = EmbedRequest("req_1", "there/e", ["one", "two"], dimensions=dimensions)
        done = await backend.embed(caller(), "amazon.titan-embed-text-v2:0", asked)
    assert set(server.paths) == {"/model/amazon.titan-embed-text-v2%3A0/invoke"}
    bodies = sorted(server.bodies, key=lambda body: str(body["inputText"]))
    assert bodies == [{"inputText": "one", **size}, {"inputText": "two", **size}]
    assert done.usage.input_tokens == 6


@pytest.mark.parametrize("dimensions", [None, 256])
async def test_cohere_s_embeddings_to_the_letter(dimensions: int | None) -> None:
    size = {} if dimensions is None else {"output_dimension": dimensions}
    async with served(BEDROCK, cohere_embeddings([[0.5] * (dimensions or 2)] * 2)) as (
        server,
        backend,
    ):
        asked = EmbedRequest("req_1", "there/e", ["one", "two"], dimensions=dimensions)
        await backend.embed(caller(), "cohere.embed-english-v3", asked)
    assert server.bodies == [{"texts": ["one", "two"], "input_type": "search_document", **size}]


async def test_titan_s_calls_share_one_time_limit() -> None:
    async def slow(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return web.json_response({"embedding": [0.5], "inputTextTokenCount": 1})

    async with served(BEDROCK, slow) as (server, backend):
        texts = [str(number) for number in range(80)]  # 8 at a time: 3 s, each call 0.3 s
        with pytest.raises(TimedOutError):
            await backend.embed(
                caller(),
                "amazon.titan-embed-text-v2:0",
                EmbedRequest("req_1", "there/e", texts, timeout_ms=1500),
            )
    assert len(server.paths) < 80
