"""What Anthropic's Messages API is asked, to the letter, and what its answers come to.

The official client is the witness: told the same, it sends the same body, and it reads the
fake's answers and events.
"""

import json
from typing import Any

import pytest
from anthropic import AsyncAnthropic

from agentos.domain.ports import ChatMessage, ModelRequest
from tests.infra.models.anthropic_server import (
    ANTHROPIC,
    begin,
    calls,
    either,
    end,
    events,
    message,
    text,
    text_block,
    tool_block,
)
from tests.infra.models.backends import served
from tests.infra.models.conversation import SCHEMA, everything
from tests.infra.models.fake_server import JSON, raw
from tests.infra.models.requests import caller, request

ROME = {"type": "tool_use", "id": "tcall_1", "name": "get_weather", "input": {"city": "Rome"}}
OSLO = {"type": "tool_use", "id": "tcall_2", "name": "get_weather", "input": {"city": "Oslo"}}
BODY: dict[str, Any] = {
    "model": "claude-fake",
    "max_tokens": 200,
    "system": "be brief\n\nspeak English",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "how is it in Rome and Oslo?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, ROME, OSLO]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "tcall_1", "content": '{"sky": "blue"}'},
                {"type": "tool_result", "tool_use_id": "tcall_2", "content": "no such city"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Rome is fine."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "and the time?"},
                {"type": "text", "text": "in UTC"},
            ],
        },
    ],
    "tools": [
        {"name": "get_weather", "description": "tells the weather", "input_schema": SCHEMA},
        {
            "name": "tool_clock_now",
            "description": "",
            "input_schema": {"type": "object", "properties": {}},
        },
    ],
    "tool_choice": {"type": "auto"},
    "temperature": 0.5,
    "top_p": 0.9,
    "stop_sequences": ["END", "STOP"],
}

# The client has no arguments for sampling any more: newer models do not take it. Older ones do.
SAMPLING = ("temperature", "top_p")
SAID: dict[str, Any] = {
    **{name: value for name, value in BODY.items() if name not in SAMPLING},
    "extra_body": {name: BODY[name] for name in SAMPLING},
}


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_request_to_the_letter(streamed: bool) -> None:
    async with served(ANTHROPIC, text("ok")) as (server, backend):
        listener = (lambda _: None) if streamed else None
        await backend.chat(caller(), "claude-fake", everything(), listener)
    assert server.bodies == [{**BODY, "stream": True} if streamed else BODY]
    assert server.paths == ["/v1/messages"]
    headers = {name.lower(): value for name, value in server.headers[0].items()}
    assert headers["x-api-key"] == ANTHROPIC.key
    assert headers["anthropic-version"] == "2023-06-01"
    assert headers["content-type"] == "application/json"
    assert "authorization" not in headers


async def test_the_official_client_says_the_same_and_understands_the_answer() -> None:
    async with served(ANTHROPIC, text("fine", usage=(11, 7))) as (server, backend):
        ours = await backend.chat(caller(), "claude-fake", everything())
        async with AsyncAnthropic(api_key="k", base_url=server.base_url, max_retries=0) as client:
            theirs = await client.messages.create(**SAID)
    assert server.bodies[0] == server.bodies[1]
    assert server.paths[0] == server.paths[1]
    assert theirs.content[0].type == "text"
    assert theirs.content[0].text == ours.content == "fine"
    assert (theirs.usage.input_tokens, theirs.usage.output_tokens) == (11, 7)
    assert (ours.usage.input_tokens, ours.usage.output_tokens) == (11, 7)


async def test_the_official_client_reads_the_fake_s_streams() -> None:
    """So what our backend reads is the format, and not a notion that it shares with the fake."""
    asked = [("get_weather", '{"city": "Röme"}'), ("get_weather", "{}")]
    async with served(ANTHROPIC, calls(asked)) as (server, backend):
        ours = await backend.chat(caller(), "m", everything(), lambda _: None)
        async with (
            AsyncAnthropic(api_key="k", base_url=server.base_url, max_retries=0) as client,
            client.messages.stream(**SAID) as stream,
        ):
            theirs = await stream.get_final_message()
    assert theirs.stop_reason == "tool_use"
    inputs = [block.input for block in theirs.content if block.type == "tool_use"]
    assert inputs == [call.arguments for call in ours.tool_calls] == [{"city": "Röme"}, {}]
    assert ours.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("choice", "wire"),
    [
        (None, None),
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ("tool.clock.now", {"type": "tool", "name": "tool_clock_now"}),
    ],
)
async def test_tool_choice(choice: str | None, wire: Any) -> None:
    async with served(ANTHROPIC, text("ok")) as (server, backend):
        await backend.chat(caller(), "m", everything(choice))
    assert server.bodies[0].get("tool_choice") == wire


async def test_what_is_not_said_is_not_sent() -> None:
    async with served(ANTHROPIC, text("ok")) as (server, backend):
        plain = ModelRequest("req_1", "there/m", [ChatMessage("user", "hi")])
        await backend.chat(caller(), "m", plain)
    (body,) = server.bodies
    content = [{"type": "text", "text": "hi"}]
    assert body == {
        "model": "m",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": content}],
    }


async def test_structured_output() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": SCHEMA}}
    async with served(ANTHROPIC, text("{}")) as (server, backend):
        await backend.chat(caller(), "m", everything(response_format=form))
    assert server.bodies[0]["output_config"] == {
        "format": {"type": "json_schema", "schema": SCHEMA}
    }


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "stop"),
    ],
)
async def test_why_an_answer_ended(reason: str, ours: str, streamed: bool) -> None:
    async with served(ANTHROPIC, text("a", stop_reason=reason)) as (_, backend):
        listener = (lambda _: None) if streamed else None
        done = await backend.chat(caller(), "m", request("there/m", "hi"), listener)
    assert done.finish_reason == ours


CACHED = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 100,
    "cache_read_input_tokens": 1000,
    "output_tokens": 5,
}


async def test_what_the_cache_takes_and_gives_is_input_too() -> None:
    whole = message([{"type": "text", "text": "a"}], "end_turn", (0, 0)) | {"usage": CACHED}
    started = begin(10)
    started["message"]["usage"] = {**CACHED, "output_tokens": 1}
    streamed = events(started, *text_block(0, "a"), *end("end_turn", 5))
    reply = either(raw(json.dumps(whole).encode(), JSON), streamed)
    async with served(ANTHROPIC, reply) as (_, backend):
        for listener in (None, lambda _: None):
            done = await backend.chat(caller(), "m", request("there/m", "hi"), listener)
            assert (done.usage.input_tokens, done.usage.output_tokens) == (1110, 5)


async def test_thoughts_and_blocks_nobody_knows_are_passed_over() -> None:
    thinking = [
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "thinking_delta", "thinking": "hm"},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "something_new", "x": 1},
    ]
    reply = events(
        begin(3),
        *thinking,
        *text_block(1, "yes ", "indeed"),
        *tool_block(2, "get_weather", '{"city": "Rome"}'),
        *end("tool_use", 9),
    )
    seen: list[str] = []
    async with served(ANTHROPIC, reply) as (_, backend):
        done = await backend.chat(caller(), "m", everything(), seen.append)
    assert (done.content, seen) == ("yes indeed", ["yes ", "indeed"])
    (call,) = done.tool_calls
    assert (call.tool_id, call.arguments) == ("get_weather", {"city": "Rome"})
    assert (done.usage.input_tokens, done.usage.output_tokens) == (3, 9)
