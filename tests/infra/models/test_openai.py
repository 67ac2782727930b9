import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from agentos.domain.errors import AgentOSError, InvalidRequestError, ProviderError
from agentos.domain.ports import (
    ChatMessage,
    EmbedRequest,
    ModelBackend,
    RequestedToolCall,
    ToolOffer,
)
from agentos.infra.models.build import make_backend
from agentos.infra.models.refusals import retry_after_ms
from tests.infra.models.openai_server import (
    OPENAI,
    OpenAIServer,
    Reply,
    call_piece,
    chunk,
    embeddings,
    openai_server,
    raw,
    status,
    stream,
    text_stream,
    usage_chunk,
)
from tests.infra.models.requests import REQUEST_ID, caller, request

KEY = OPENAI.key
KV_PUT = ToolOffer("tool.kv.put", "tool.kv.put", "keeps", {"type": "object", "properties": {}})
CALLS = stream(
    [
        chunk({"role": "assistant", "content": None, **call_piece(0, "call_0", "tool_kv_put", "")}),
        chunk(call_piece(0, None, None, '{"key": ')),
        chunk(call_piece(1, "call_1", "tool_my_Uown", "")),
        chunk(call_piece(0, None, None, '"a"}')),
        chunk({}, "tool_calls"),
        usage_chunk(5, 6),
    ]
)


@asynccontextmanager
async def served(*replies: Reply) -> AsyncIterator[tuple[OpenAIServer, ModelBackend]]:
    async with openai_server(*replies) as server:
        backend = make_backend(OPENAI.entry(server), KEY)
        try:
            yield server, backend
        finally:
            await backend.aclose()


async def failure(reply: Reply, *, is_streamed: bool) -> AgentOSError:
    on_delta = (lambda _: None) if is_streamed else None
    async with served(reply) as (_, backend):
        with pytest.raises(AgentOSError) as caught:
            await backend.chat(caller(), "m", request("openai/m", "hi"), on_delta)
    return caught.value


async def test_a_whole_answer_is_asked_for_unless_somebody_listens() -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    async with served(text_stream("x")) as (server, backend):
        await backend.chat(caller(), "org/m", request("openai/org/m", "hi"))
        await backend.chat(caller(), "org/m", request("openai/org/m", "hi"), lambda _: None)
    plain = {"model": "org/m", "messages": messages}
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    assert server.bodies == [plain, plain | streamed]
    assert server.paths == ["/v1/chat/completions"] * 2
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["Idempotency-Key"] == REQUEST_ID
    assert server.headers[0]["Content-Type"] == "application/json"


async def test_every_wish_is_passed_on() -> None:
    wishes = replace(
        request("openai/m", "hi", tools=[KV_PUT], max_output_tokens=9),
        temperature=0.0,
        top_p=0.5,
        stop=("a", "b"),
        seed=7,
        tool_choice="tool.kv.put",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
        messages=[ChatMessage("user", "hi", name="eve")],
    )
    async with served(text_stream("x")) as (server, backend):
        await backend.chat(caller(), "m", wishes)
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi", "name": "eve"}],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "tool_kv_put",
                        "description": "keeps",
                        "parameters": {"type": "object", "properties": {}},
                    },
                }
            ],
            "tool_choice": {"type": "function", "function": {"name": "tool_kv_put"}},
            "max_tokens": 9,
            "temperature": 0.0,
            "top_p": 0.5,
            "seed": 7,
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
            "stop": ["a", "b"],
        }
    ]


async def test_a_request_id_that_a_caller_chose_is_made_unique_to_its_tenant() -> None:
    async with served(text_stream("x")) as (server, backend):
        for tenant in ("tnt_a", "tnt_b", "tnt_a"):
            await backend.chat(caller(tenant), "m", request("openai/m", "hi", request_id="mine €"))
    keys = [headers["Idempotency-Key"] for headers in server.headers]
    assert keys[0] == keys[2] != keys[1]


async def test_earlier_calls_go_back_in_the_format() -> None:
    calls = (
        RequestedToolCall("tcall_1", "tool.kv.put", "tool.kv.put", {"key": "a"}),
        RequestedToolCall("tcall_2", "search", "search", {}),
    )
    behind = [
        ChatMessage("assistant", "", tool_calls=calls),
        ChatMessage("tool", "ok", "tcall_1"),
    ]
    async with served(text_stream("x")) as (server, backend):
        await backend.chat(caller(), "m", request("openai/m", "hi", behind=behind))
    assert server.bodies[0]["messages"][2:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "tcall_1",
                    "type": "function",
                    "function": {"name": "tool_kv_put", "arguments": '{"key":"a"}'},
                },
                {
                    "id": "tcall_2",
                    "type": "function",
                    "function": {"name": "search", "arguments": "{}"},
                },
            ],
        },
        {"role": "tool", "content": "ok", "tool_call_id": "tcall_1"},
    ]


async def test_an_invented_tool_is_named_as_the_model_named_it() -> None:
    async with served(CALLS) as (_, backend):
        answer = await backend.chat(caller(), "m", request("openai/m", "hi", tools=[KV_PUT]))
    assert [(c.tool_id, c.arguments) for c in answer.tool_calls] == [
        ("tool.kv.put", {"key": "a"}),
        ("tool.my_own", {}),
    ]


async def test_the_fake_server_speaks_the_format_that_the_official_client_reads() -> None:
    vectors = embeddings([[0.5, 1.0]], as_base64=True)
    replies = [CALLS, CALLS, text_stream("Hel", "lo"), vectors, status(400, "bad")]
    ask: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    async with openai_server(*replies) as server:
        sdk = AsyncOpenAI(base_url=server.base_url, api_key=KEY, max_retries=0)
        async with sdk:
            whole = await sdk.chat.completions.create(**ask)
            async with sdk.chat.completions.stream(**ask) as stream:
                streamed = await stream.get_final_completion()
            text = await sdk.chat.completions.create(**ask)
            embedded = await sdk.embeddings.create(model="m", input="x")
            with pytest.raises(BadRequestError, match="bad"):
                await sdk.chat.completions.create(**ask)
    for answer in (whole, streamed):
        functions = [
            getattr(c, "function", None) for c in answer.choices[0].message.tool_calls or ()
        ]
        assert [(f.name, f.arguments) for f in functions if f] == [
            ("tool_kv_put", '{"key": "a"}'),
            ("tool_my_Uown", ""),
        ]
    assert whole.usage is not None
    assert whole.usage.total_tokens == 11
    assert text.choices[0].message.content == "Hello"
    assert list(embedded.data[0].embedding) == [0.5, 1.0]


@pytest.mark.parametrize(
    ("reason", "ours"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("x", "stop")],
)
async def test_why_it_ended_is_told(reason: str, ours: str) -> None:
    reply = stream([chunk({"content": "x"}), chunk({}, reason)])
    async with served(reply) as (_, backend):
        answer = await backend.chat(caller(), "m", request("openai/m", "hi"))
    assert answer.finish_reason == ours
    assert answer.usage.output_tokens == 1  # estimated: the server sent none


async def test_a_server_that_streams_or_not_against_the_wish_is_understood() -> None:
    message = {"role": "assistant", "content": "whole", "tool_calls": None}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "model": "w"}
    events = (
        b': comment\r\n\r\ndata: {"choices": [{"delta": {"content": "whole"},\r\n'
        b'data: "finish_reason": "stop"}]}\r\n\r\ndata: [DONE]\r\n\r\n'
    )
    replies = raw(json.dumps(body).encode(), "application/json"), raw(events, "text/event-stream")
    async with served(*replies) as (_, backend):
        seen: list[str] = []
        streamed = await backend.chat(caller(), "m", request("openai/m", "hi"), seen.append)
        whole = await backend.chat(caller(), "m", request("openai/m", "hi"))
    assert (streamed.content, streamed.model, seen) == ("whole", "w", ["whole"])
    assert whole.content == "whole"


async def test_pieces_without_an_index_and_calls_that_share_one_are_told_apart() -> None:
    def whole(call_id: str, name: str, index: int | None) -> dict[str, Any]:
        delta = call_piece(0, call_id, name, "{}")
        delta["tool_calls"][0]["index"] = index
        return chunk(delta)

    first = stream([whole("a", "x", None), whole("b", "y", None), chunk({}, "tool_calls")])
    second = stream([whole("a", "x", 0), whole("b", "y", 0), chunk({}, "tool_calls")])
    async with served(first, second) as (_, backend):
        for _ in range(2):
            answer = await backend.chat(caller(), "m", request("openai/m", "hi"), lambda _: None)
            assert [c.tool_id for c in answer.tool_calls] == ["x", "y"]


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize(
    "reply",
    [
        raw(b'{"choices": "x"}', "application/json"),
        raw(b'{"choices": []}', "application/json"),
        raw(b'{"choices": [{"message": {"content": "half"}}]}', "application/json"),
        raw(b'data: {"error": {"message": "overloaded"}}\n\n', "text/event-stream"),
        raw(b"data: [DONE]\n\n", "text/event-stream"),
        stream([chunk({"content": "all"}, "stop")], done=False),
        stream([chunk({"content": "half"})]),
        stream([chunk({"content": 5}), chunk({}, "stop")]),
        stream([chunk(call_piece(0, "c", "x", '{"a":')), chunk({}, "tool_calls")]),
        stream([chunk(call_piece(0, "c", "", "{}")), chunk({}, "tool_calls")]),
    ],
)
async def test_a_wrong_or_half_answer_is_a_provider_error(reply: Reply, is_streamed: bool) -> None:
    assert isinstance(await failure(reply, is_streamed=is_streamed), ProviderError)


async def test_an_account_without_money_is_not_asked_again() -> None:
    reply = raw(b'{"error": {"message": "m", "code": "insufficient_quota"}}', "text/x", 429)
    assert (await failure(reply, is_streamed=False)).to_wire()["retryable"] is False


async def test_embeddings_are_read_from_base64_and_dimensions_passed_on() -> None:
    asked = EmbedRequest("req_1", "openai/e", ["a", "b"], dimensions=2)
    async with served(embeddings([[0.5, 1.0], [2.0, 3.0]], as_base64=True)) as (server, backend):
        answer = await backend.embed(caller(), "e", asked)
    assert answer.vectors == [[0.5, 1.0], [2.0, 3.0]]
    assert answer.usage.input_tokens == 3
    assert server.bodies == [{"model": "e", "input": ["a", "b"], "dimensions": 2}]
    assert server.paths == ["/v1/embeddings"]


async def test_what_no_json_can_hold_is_invalid() -> None:
    async with served(text_stream("x")) as (_, backend):
        with pytest.raises(InvalidRequestError):
            await backend.chat(caller(), "m", request("openai/m", "\ud800"))


@pytest.mark.parametrize(
    ("header", "ms"),
    [("2", 2000), ("0.5", 500), ("soon", None), ("", None), ("-1", None), ("9" * 40, None)],
)
def test_retry_after_is_read(header: str, ms: int | None) -> None:
    assert retry_after_ms({"retry-after": header}) == ms


def test_retry_after_may_be_a_date() -> None:
    assert retry_after_ms({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    later = retry_after_ms({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"})
    assert later is not None
    assert later > 10**9
