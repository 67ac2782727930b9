import asyncio
import json
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from agentos.domain.errors import (
    AgentOSError,
    DependencyUnavailableError,
    InvalidRequestError,
    ProviderError,
    TimedOutError,
)
from agentos.domain.ports import ChatMessage, RequestedToolCall, ToolOffer
from agentos.infra.models.openai_compatible import OpenAICompatibleModels
from agentos.infra.models.openai_errors import retry_after_ms
from agentos.infra.models.openai_names import function_name, tool_id_of
from tests.infra.models.openai_server import (
    OpenAIServer,
    Reply,
    abort,
    call_piece,
    chunk,
    hang,
    openai_server,
    raw,
    status,
    stream,
    text_stream,
    usage_chunk,
)
from tests.infra.models.requests import REQUEST_ID, caller, request

KEY = "sk-very-secret"
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
async def backend(
    *replies: Reply, models: Sequence[str] = ()
) -> AsyncIterator[tuple[OpenAIServer, OpenAICompatibleModels]]:
    async with openai_server(*replies) as server:
        client = OpenAICompatibleModels(server.base_url, KEY, models)
        try:
            yield server, client
        finally:
            await client.aclose()


async def failure(*replies: Reply, timeout_ms: int = 10_000) -> AgentOSError:
    async with backend(*replies) as (_, models):
        with pytest.raises(AgentOSError) as caught:
            await models.invoke(caller(), request("openai/m", "hi", timeout_ms=timeout_ms))
    assert KEY not in repr(caught.value) + json.dumps(caught.value.to_wire())
    return caught.value


async def test_a_text_is_streamed_and_put_together() -> None:
    seen: list[str] = []
    async with backend(text_stream("Hel", "lo ", "wörld")) as (server, models):
        answer = await models.invoke(caller(), request("openai/org/m", "hi"), seen.append)
    assert answer.content == "Hello wörld"
    assert seen == ["Hel", "lo ", "wörld"]
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 7)
    assert (answer.backend, answer.model) == ("openai", "fake-1")
    assert server.bodies == [
        {
            "model": "org/m",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "hi"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["Idempotency-Key"] == REQUEST_ID


async def test_a_request_id_that_a_caller_chose_is_made_unique_to_its_tenant() -> None:
    async with backend(text_stream("x")) as (server, models):
        for tenant in ("tnt_a", "tnt_b", "tnt_a"):
            await models.invoke(caller(tenant), request("openai/m", "hi", request_id="mine €"))
    keys = [headers["Idempotency-Key"] for headers in server.headers]
    assert keys[0] == keys[2] != keys[1]


async def test_tool_calls_are_assembled_and_go_back_with_their_results() -> None:
    async with backend(CALLS, text_stream("done")) as (server, models):
        asked = await models.invoke(caller(), request("openai/m", "hi", tools=[KV_PUT]))
        assert [(c.tool_id, c.arguments) for c in asked.tool_calls] == [
            ("tool.kv.put", {"key": "a"}),
            ("tool.my_own", {}),
        ]
        ids = [c.tool_call_id for c in asked.tool_calls]
        assert len(set(ids)) == 2
        assert all(i.startswith("tcall_") for i in ids)
        behind = [
            ChatMessage("assistant", "", tool_calls=asked.tool_calls),
            *(ChatMessage("tool", "ok", i) for i in ids),
        ]
        limited = request("openai/m", "hi", behind=behind, tools=[KV_PUT], max_output_tokens=9)
        answer = await models.invoke(caller(), limited)
    assert answer.content == "done"
    body = server.bodies[1]
    assert body["max_tokens"] == 9
    assert body["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "tool_kv_put",
                "description": "keeps",
                "parameters": {"type": "object", "properties": {}},
            },
        }
    ]
    assert body["messages"][2:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": ids[0],
                    "type": "function",
                    "function": {"name": "tool_kv_put", "arguments": '{"key":"a"}'},
                },
                {
                    "id": ids[1],
                    "type": "function",
                    "function": {"name": "tool_my_Uown", "arguments": "{}"},
                },
            ],
        },
        {"role": "tool", "content": "ok", "tool_call_id": ids[0]},
        {"role": "tool", "content": "ok", "tool_call_id": ids[1]},
    ]


async def test_the_fake_server_speaks_the_format_that_the_official_client_reads() -> None:
    async with openai_server(CALLS, text_stream("Hel", "lo"), status(400, "bad")) as server:
        sdk = AsyncOpenAI(base_url=server.base_url, api_key=KEY, max_retries=0)
        names: dict[int, str] = {}
        arguments: dict[int, str] = {}
        content, total = "", 0
        async with sdk:
            for _ in range(2):
                parts = await sdk.chat.completions.create(
                    model="m",
                    messages=[{"role": "user", "content": "hi"}],
                    stream=True,
                    stream_options={"include_usage": True},
                )
                async for part in parts:
                    total += part.usage.total_tokens if part.usage else 0
                    for choice in part.choices:
                        content += choice.delta.content or ""
                        for call in choice.delta.tool_calls or ():
                            assert call.function
                            names.setdefault(call.index, call.function.name or "")
                            arguments.setdefault(call.index, "")
                            arguments[call.index] += call.function.arguments or ""
        async with OpenAICompatibleClosing(server.base_url) as models:
            with pytest.raises(ProviderError):
                await models.invoke(caller(), request("openai/m", "hi"))
    assert (content, total) == ("Hello", 11 + 18)
    assert names == {0: "tool_kv_put", 1: "tool_my_Uown"}
    assert arguments == {0: '{"key": "a"}', 1: ""}
    ours = server.bodies[2]
    assert {k: v for k, v in ours.items() if k != "messages"} == {
        k: v for k, v in server.bodies[0].items() if k != "messages"
    }


class OpenAICompatibleClosing(OpenAICompatibleModels):
    async def __aenter__(self) -> OpenAICompatibleModels:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


async def test_a_server_that_does_not_stream_is_understood() -> None:
    message = {"role": "assistant", "content": "whole", "tool_calls": None}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "model": "w"}
    async with backend(raw(json.dumps(body).encode(), "application/json")) as (_, models):
        answer = await models.invoke(caller(), request("openai/m", "hi"))
    assert (answer.content, answer.model) == ("whole", "w")
    assert answer.usage.output_tokens == 2  # estimated: the server sent none


async def test_pieces_without_an_index_and_calls_that_share_one_are_told_apart() -> None:
    def whole(call_id: str, name: str, index: int | None) -> dict[str, Any]:
        delta = call_piece(0, call_id, name, "{}")
        delta["tool_calls"][0]["index"] = index
        return chunk(delta)

    first = stream([whole("a", "x", None), whole("b", "y", None), chunk({}, "tool_calls")])
    second = stream([whole("a", "x", 0), whole("b", "y", 0), chunk({}, "tool_calls")])
    async with backend(first, second) as (_, models):
        for _ in range(2):
            answer = await models.invoke(caller(), request("openai/m", "hi"))
            assert [c.tool_id for c in answer.tool_calls] == ["x", "y"]


@pytest.mark.parametrize("code", [400, 401, 403, 413, 422])
async def test_a_refusal_is_not_tried_again(code: int) -> None:
    async with backend(status(code, f"bad {KEY}")) as (server, models):
        with pytest.raises(ProviderError) as caught:
            await models.invoke(caller(), request("openai/m", "hi"))
    wire = caught.value.to_wire()
    assert wire["retryable"] is False
    assert wire["details"]["status"] == code
    assert KEY not in json.dumps(wire)
    assert ("reason" in wire["details"]) == (code not in (401, 403))
    assert len(server.bodies) == 1


async def test_a_missing_model_is_an_invalid_request() -> None:
    assert isinstance(
        await failure(status(404, "The model `m` does not exist")), InvalidRequestError
    )


async def test_a_model_that_is_not_listed_is_not_asked_for() -> None:
    async with backend(text_stream("x"), models=["a"]) as (server, models):
        assert (await models.invoke(caller(), request("openai/a", "hi"))).content == "x"
        for ref in ("openai/b", "openai/"):
            with pytest.raises(InvalidRequestError):
                await models.invoke(caller(), request(ref, "hi"))
    assert len(server.bodies) == 1


@pytest.mark.parametrize("reply", [status(429, "slow"), status(503, "down"), abort])
async def test_a_passing_failure_is_tried_again(reply: Reply) -> None:
    async with backend(reply, reply, text_stream("ok")) as (server, models):
        assert (await models.invoke(caller(), request("openai/m", "hi"))).content == "ok"
    assert len(server.bodies) == 3
    assert len({headers["Idempotency-Key"] for headers in server.headers}) == 1


async def test_a_lasting_failure_is_tried_three_times() -> None:
    async with backend(status(500, "down")) as (server, models):
        with pytest.raises(ProviderError) as caught:
            await models.invoke(caller(), request("openai/m", "hi"))
    assert len(server.bodies) == 3
    assert caught.value.to_wire()["retryable"] is True
    assert caught.value.details["status"] == 500


async def test_retry_after_is_honoured() -> None:
    async with backend(status(429, "slow", retry_after_ms="400"), text_stream("ok")) as (_, models):
        began = time.monotonic()
        await models.invoke(caller(), request("openai/m", "hi"))
        assert time.monotonic() - began >= 0.4


async def test_a_retry_after_beyond_the_time_limit_fails_at_once() -> None:
    began = time.monotonic()
    error = await failure(status(429, "slow", Retry_After="60"), timeout_ms=30_000)
    assert time.monotonic() - began < 10
    assert isinstance(error, ProviderError)
    assert error.details["retry_after_ms"] == 60_000


@pytest.mark.parametrize(
    ("header", "ms"),
    [("2", 2000), ("0.5", 500), ("soon", None), ("", None), ("-1", None), ("9" * 40, None)],
)
def test_retry_after_is_read(header: str, ms: int | None) -> None:
    assert retry_after_ms({"Retry-After": header}) == ms


def test_retry_after_may_be_a_date() -> None:
    assert retry_after_ms({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    later = retry_after_ms({"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"})
    assert later is not None
    assert later > 10**9


@pytest.mark.parametrize(
    "reply",
    [
        raw(b"<html>welcome</html>", "text/html"),
        raw(b"not json", "application/json"),
        raw(b"[1]", "application/json"),
        raw(b'{"choices": "x"}', "application/json"),
        raw(b"{}", "application/json"),
        raw(b"data: <html>\n\n", "text/event-stream"),
        raw(b"", "text/event-stream"),
        raw(b'data: {"error": {"message": "overloaded"}}\n\n', "text/event-stream"),
        stream([chunk({"content": "half"})], done=False),
        stream([chunk({"content": "half"})], cut=True),
        stream([chunk({"content": 5}), chunk({}, "stop")]),
        stream([chunk(call_piece(0, "c", "x", '{"a":')), chunk({}, "tool_calls")]),
        stream([chunk(call_piece(0, "c", "x", "[1]")), chunk({}, "tool_calls")]),
        stream([chunk({"content": "x" * 300_000})] * 4),
        stream([chunk(call_piece(n, f"c{n}", "x", "{}")) for n in range(129)]),
        raw(b"data: " + b"x" * 3_000_000, "text/event-stream"),
        raw(b"moved", "text/plain", 302),
    ],
)
async def test_a_wrong_answer_is_a_provider_error(reply: Reply) -> None:
    assert isinstance(await failure(reply), ProviderError)


async def test_a_server_that_speaks_no_http_is_a_provider_error_without_the_key() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH_9\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with OpenAICompatibleClosing(f"http://127.0.0.1:{port}/v1", KEY) as models:
            with pytest.raises(ProviderError) as caught:
                await models.invoke(caller(), request("openai/m", "hi"))
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__cause__)
    assert KEY not in shown


async def test_an_answer_that_broke_off_is_not_asked_for_again() -> None:
    async with backend(stream([chunk({"content": "half"})], cut=True)) as (server, models):
        with pytest.raises(ProviderError):
            await models.invoke(caller(), request("openai/m", "hi"))
    assert len(server.bodies) == 1


async def test_a_server_that_is_not_there_is_a_dependency(unused_tcp_port: int) -> None:
    models = OpenAICompatibleModels(f"http://127.0.0.1:{unused_tcp_port}/v1", KEY)
    with pytest.raises(DependencyUnavailableError) as caught:
        await models.invoke(caller(), request("openai/m", "hi"))
    assert caught.value.details["dependency"] == "openai"
    await models.aclose()
    with pytest.raises(DependencyUnavailableError):
        await models.invoke(caller(), request("openai/m", "hi"))


async def test_a_server_that_always_breaks_the_connection_is_a_dependency() -> None:
    assert isinstance(await failure(abort), DependencyUnavailableError)


async def test_the_time_limit_ends_a_stream_that_hangs() -> None:
    async with backend(hang) as (server, models):
        with pytest.raises(TimedOutError):
            await models.invoke(caller(), request("openai/m", "hi", timeout_ms=100))
        await asyncio.wait_for(server.left.wait(), 5)


async def test_cancellation_closes_the_connection_at_once() -> None:
    begun = asyncio.Event()
    async with backend(hang) as (server, models):
        call = models.invoke(caller(), request("openai/m", "hi"), lambda _: begun.set())
        task = asyncio.create_task(call)
        await asyncio.wait_for(begun.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 5)


async def test_a_finished_stream_gives_its_connection_back() -> None:
    async with backend(text_stream("x")) as (server, models):
        for _ in range(3):
            await models.invoke(caller(), request("openai/m", "hi"))
        assert len(server.connections) == 1


@pytest.mark.parametrize("url", ["ftp://x/v1", "http://user:pass@x/v1", "nonsense", ""])
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base URL"):
        OpenAICompatibleModels(url)


def test_the_key_is_not_shown() -> None:
    assert KEY not in repr(OpenAICompatibleModels("http://x/v1", KEY))


SEGMENT = st.text("abcz09_-", min_size=1, max_size=40)


@given(st.lists(SEGMENT, min_size=1, max_size=6, unique=True))
def test_function_names_are_valid_and_lead_back(segments: list[str]) -> None:
    tool_id = ".".join(["tool", *segments])
    name = function_name(tool_id)
    assert 1 <= len(name) <= 64
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzUX0123456789_-")
    spec = ToolOffer(tool_id, tool_id, "", {})
    assert tool_id_of(name, request("openai/m", "x", tools=[spec])) == tool_id
    if "_X" not in name:
        assert tool_id_of(name, request("openai/m", "x")) == tool_id


@given(st.text(max_size=100), st.text(max_size=100))
def test_different_tools_have_different_valid_names(a: str, b: str) -> None:
    assert (function_name(a) == function_name(b)) == (a == b)
    assert len(function_name(a)) <= 64
    assert tool_id_of(a, request("openai/m", "x")) is not None


def test_a_call_with_an_invented_name_can_be_sent_back() -> None:
    call = RequestedToolCall("tcall_1", "run shell!", "run shell!", {})
    assert function_name(call.tool_id).startswith("run-shell-_X")
