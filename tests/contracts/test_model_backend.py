"""What holds for every `ModelBackend` on a server, whatever wire format the server speaks."""

import asyncio
import json
import math
import time
import traceback
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from agentos.domain.errors import (
    AgentOSError,
    DependencyUnavailableError,
    InvalidRequestError,
    ProviderError,
    TimedOutError,
)
from agentos.domain.ports import (
    ChatMessage,
    EmbedRequest,
    ModelBackend,
    RequestedToolCall,
    ToolOffer,
)
from agentos.infra.models.build import make_backend
from tests.infra.models.backends import served
from tests.infra.models.fake_server import (
    Reply,
    Vendor,
    abort,
    raw,
    trickle,
)
from tests.infra.models.requests import caller, request
from tests.infra.models.vendors import VENDORS

HALF_USAGE = {"input_tokens": 3, "output_tokens": 1}  # "be brief" and "hi", "half"
TOOLS = (
    ToolOffer("tool.kv.put", "tool.kv.put", "keeps", {"type": "object", "properties": {}}),
    ToolOffer("Find-It", "Find-It", "finds", {"type": "object", "properties": {}}),
)


@pytest.fixture(params=VENDORS, ids=lambda vendor: vendor.kind)
def vendor(request: pytest.FixtureRequest) -> Vendor:
    vendor: Vendor = request.param
    return vendor


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def streamed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def failure(vendor: Vendor, call: Awaitable[Any]) -> AgentOSError:
    """Return the error of a call, after a look for the key in all that is shown of it."""
    with pytest.raises(AgentOSError) as caught:
        await call
    error = caught.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + json.dumps(error.to_wire())
    for secret in vendor.key.split(":"):
        assert secret not in shown
    return error


async def test_an_answer_is_whole_and_its_pieces_are_it(vendor: Vendor, streamed: bool) -> None:
    seen: list[str] = []
    async with served(vendor, vendor.text("Hel", "lo ", "wörld 🎈")) as (_, backend):
        answer = await backend.chat(
            caller(), "m", request("there/m", "hi"), seen.append if streamed else None
        )
    assert answer.content == "Hello wörld 🎈"
    assert seen == (["Hel", "lo ", "wörld 🎈"] if streamed else [])
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 7)
    assert (answer.backend, answer.tool_calls, answer.finish_reason) == ("there", (), "stop")
    assert answer.model


async def test_tool_calls_come_with_ids_of_ours_and_go_back(vendor: Vendor, streamed: bool) -> None:
    on_delta = (lambda _: None) if streamed else None
    asked = [("tool_kv_put", '{"key": "ü", "n": 1}'), ("Find-It", "{}")]
    async with served(vendor, vendor.calls(asked), vendor.text("done")) as (server, backend):
        first = replace(request("there/m", "hi", tools=TOOLS), tool_choice="required")
        answer = await backend.chat(caller(), "m", first, on_delta)
        again = [
            ChatMessage("assistant", "wait", tool_calls=answer.tool_calls),
            *(ChatMessage("tool", '"ok"', call.tool_call_id) for call in answer.tool_calls),
        ]
        second = request("there/m", "hi", tools=TOOLS, behind=again)
        done = await backend.chat(caller(), "m", second, on_delta)
    assert answer.finish_reason == "tool_calls"
    assert [(c.tool_id, c.name, c.arguments) for c in answer.tool_calls] == [
        ("tool.kv.put", "tool.kv.put", {"key": "ü", "n": 1}),
        ("Find-It", "Find-It", {}),
    ]
    ids = [call.tool_call_id for call in answer.tool_calls]
    assert len(set(ids)) == 2
    assert all(one.startswith("tcall_") for one in ids)
    assert done.content == "done"
    sent = json.dumps(server.bodies[1])
    assert sent.count('"tool_kv_put"') >= 2
    assert sent.count('"Find-It"') >= 2


async def test_a_request_that_names_no_offered_tool_is_invalid(vendor: Vendor) -> None:
    asked = replace(request("there/m", "hi", tools=TOOLS), tool_choice="other")
    async with served(vendor, vendor.text("x")) as (server, backend):
        error = await failure(vendor, backend.chat(caller(), "m", asked))
    assert isinstance(error, InvalidRequestError)
    assert not server.bodies


async def test_calls_whose_arguments_are_no_object_are_a_provider_error(
    vendor: Vendor, streamed: bool
) -> None:
    async with served(vendor, vendor.calls([("tool_kv_put", "[1]")])) as (_, backend):
        on_delta = (lambda _: None) if streamed else None
        asked = request("there/m", "hi", tools=TOOLS)
        error = await failure(vendor, backend.chat(caller(), "m", asked, on_delta))
    assert isinstance(error, ProviderError)


@pytest.mark.parametrize("code", [400, 404, 413, 422])
async def test_a_request_that_cannot_be_mended_is_invalid(vendor: Vendor, code: int) -> None:
    reply = vendor.status(code, f"too bad, {vendor.key}")
    async with served(vendor, reply) as (server, backend):
        error = await failure(vendor, backend.chat(caller(), "m", request("there/m", "hi")))
    assert isinstance(error, InvalidRequestError)
    assert error.details["stage"] == "answer"
    assert error.details["status"] == code
    assert error.details["reason"].startswith("too bad, ***")
    assert len(server.bodies) == 1


@pytest.mark.parametrize("code", [401, 402, 403, 429, 500, 503, 529])
async def test_a_refusal_says_whether_it_may_pass(vendor: Vendor, code: int) -> None:
    reply = vendor.status(code, f"no, {vendor.key}", Retry_After="7")
    async with served(vendor, reply) as (server, backend):
        error = await failure(vendor, backend.chat(caller(), "m", request("there/m", "hi")))
    assert isinstance(error, ProviderError)
    assert error.to_wire()["retryable"] is (code >= 429)
    assert error.details["stage"] == "answer"
    assert error.details["retry_after_ms"] == 7000
    assert ("reason" in error.details) is (code not in (401, 403))
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "reply",
    [
        raw(b"<html>welcome</html>", "text/html"),
        raw(b"not json", "application/json"),
        raw(b"[1]", "application/json"),
        raw(b"{}", "application/json"),
        raw(b"\xff\xfe{}", "application/json"),
        raw(b"", "application/json"),
        raw(b"", "text/event-stream"),
        raw(b"data: <html>\n\n", "text/event-stream"),
        raw(b"data: \xff\n\n", "text/event-stream"),
        raw(b"data: " + b"x" * 3_000_000, "text/event-stream"),
        raw(
            b'{"error": {"message": "overloaded", "type": "overloaded_error"}}', "application/json"
        ),
        raw(b" " * 9_000_000, "application/json"),
        raw(b"moved", "text/plain", 302),
        raw(b"", "application/json", 204),
        raw(b"\x00\x00\x00\x10", "application/vnd.amazon.eventstream"),
    ],
)
async def test_an_answer_in_another_format_is_a_provider_error(
    vendor: Vendor, streamed: bool, reply: Reply
) -> None:
    seen: list[str] = []
    async with served(vendor, reply) as (_, backend):
        call = backend.chat(
            caller(), "m", request("there/m", "hi"), seen.append if streamed else None
        )
        error = await failure(vendor, call)
    assert isinstance(error, ProviderError)
    assert error.details["stage"] == "answer"
    assert not seen


@pytest.mark.parametrize("how", ["half", "unended", "failing"])
async def test_a_stream_that_breaks_off_says_what_was_used(vendor: Vendor, how: str) -> None:
    seen: list[str] = []
    async with served(vendor, getattr(vendor, how)) as (_, backend):
        call = backend.chat(caller(), "m", request("there/m", "hi"), seen.append)
        error = await failure(vendor, call)
    assert isinstance(error, ProviderError)
    assert seen == ["half"]
    assert error.details["stage"] == "stream"
    assert error.details["usage"] == HALF_USAGE


@pytest.mark.parametrize("how", ["half", "failing"])
async def test_a_whole_answer_that_breaks_off_is_none(vendor: Vendor, how: str) -> None:
    async with served(vendor, getattr(vendor, how)) as (_, backend):
        error = await failure(vendor, backend.chat(caller(), "m", request("there/m", "hi")))
    assert isinstance(error, ProviderError)
    assert error.details["stage"] == "answer"


async def test_an_answer_without_end_is_cut_off(vendor: Vendor) -> None:
    seen: list[str] = []
    async with served(vendor, vendor.text(*["x" * 300_000] * 4)) as (_, backend):
        call = backend.chat(caller(), "m", request("there/m", "hi"), seen.append)
        error = await failure(vendor, call)
    assert isinstance(error, ProviderError)
    assert error.to_wire()["retryable"] is False
    assert len("".join(seen)) <= 1024 * 1024


async def test_more_tool_calls_than_128_are_refused(vendor: Vendor, streamed: bool) -> None:
    reply = vendor.calls([("tool_kv_put", "{}")] * 129)
    async with served(vendor, reply) as (_, backend):
        on_delta = (lambda _: None) if streamed else None
        asked = request("there/m", "hi", tools=TOOLS)
        error = await failure(vendor, backend.chat(caller(), "m", asked, on_delta))
    assert isinstance(error, ProviderError)
    assert error.to_wire()["retryable"] is False


async def test_the_time_limit_ends_a_stream_that_stalls(vendor: Vendor) -> None:
    async with served(vendor, vendor.stalled) as (server, backend):
        asked = request("there/m", "hi", timeout_ms=200)
        error = await failure(vendor, backend.chat(caller(), "m", asked, lambda _: None))
        await asyncio.wait_for(server.left.wait(), 5)
    assert isinstance(error, TimedOutError)
    assert error.details["stage"] == "stream"
    assert error.details["usage"]["output_tokens"] > 0


async def test_a_stall_is_noticed_long_before_the_time_limit(vendor: Vendor) -> None:
    began = time.monotonic()
    async with served(vendor, vendor.stalled, idle_ms=100) as (server, backend):
        call = backend.chat(caller(), "m", request("there/m", "hi"), lambda _: None)
        assert isinstance(await failure(vendor, call), TimedOutError)
        await asyncio.wait_for(server.left.wait(), 5)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "media_type",
    ["application/json", "text/event-stream", "application/vnd.amazon.eventstream"],
)
async def test_a_byte_now_and_then_is_a_stall(
    vendor: Vendor, streamed: bool, media_type: str
) -> None:
    began = time.monotonic()
    async with served(vendor, trickle(media_type), idle_ms=150) as (_, backend):
        on_delta = (lambda _: None) if streamed else None
        call = backend.chat(caller(), "m", request("there/m", "hi"), on_delta)
        error = await failure(vendor, call)
    assert isinstance(error, TimedOutError | ProviderError)
    assert time.monotonic() - began < 5


async def test_cancellation_closes_the_connection_at_once(vendor: Vendor) -> None:
    begun = asyncio.Event()
    async with served(vendor, vendor.stalled) as (server, backend):
        call = backend.chat(caller(), "m", request("there/m", "hi"), lambda _: begun.set())
        task = asyncio.ensure_future(call)
        await asyncio.wait_for(begun.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 5)


async def test_who_listens_may_stop_it(vendor: Vendor) -> None:
    def refuse(_: str) -> None:
        raise InvalidRequestError("enough")

    async with served(vendor, vendor.stalled) as (server, backend):
        with pytest.raises(InvalidRequestError, match="enough"):
            await backend.chat(caller(), "m", request("there/m", "hi"), refuse)
        await asyncio.wait_for(server.left.wait(), 5)


async def test_a_server_that_is_not_there_did_not_get_it(
    vendor: Vendor, unused_tcp_port: int
) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}{vendor.root}"
    backend = make_backend(vendor.entry(url), vendor.key)
    for _ in range(2):
        error = await failure(vendor, backend.chat(caller(), "m", request("there/m", "hi")))
        assert isinstance(error, DependencyUnavailableError)
        assert error.details == {"dependency": "there", "stage": "connect"}
        with pytest.raises(DependencyUnavailableError):
            await backend.probe()
        await backend.aclose()


async def test_a_connection_that_breaks_before_the_answer_is_a_dependency(vendor: Vendor) -> None:
    async with served(vendor, abort) as (server, backend):
        error = await failure(vendor, backend.chat(caller(), "m", request("there/m", "hi")))
        await backend.probe()
    assert isinstance(error, DependencyUnavailableError)
    assert error.details["stage"] == "answer"
    assert len(server.bodies) == 1


async def test_a_server_that_speaks_no_http_is_a_provider_error(vendor: Vendor) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH_9\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        backend = make_backend(vendor.entry(f"http://127.0.0.1:{port}"), vendor.key)
        error = await failure(vendor, backend.chat(caller(), "m", request("there/m", "hi")))
        await backend.aclose()
    assert isinstance(error, ProviderError)


async def test_connections_are_used_again(vendor: Vendor, streamed: bool) -> None:
    async with served(vendor, vendor.text("x")) as (server, backend):
        for _ in range(3):
            on_delta = (lambda _: None) if streamed else None
            await backend.chat(caller(), "m", request("there/m", "hi"), on_delta)
    assert len(server.connections) == 1


async def test_many_calls_at_once_do_not_mix(vendor: Vendor, streamed: bool) -> None:
    async def one(backend: ModelBackend) -> tuple[str, str]:
        seen: list[str] = []
        asked = request("there/m", "hi")
        answer = await backend.chat(caller(), "m", asked, seen.append if streamed else None)
        return answer.content, "".join(seen) if streamed else answer.content

    replies = [vendor.text(f"text {n}, ", "end") for n in range(30)]
    async with served(vendor, *replies) as (_, backend):
        answers = await asyncio.gather(*(one(backend) for _ in replies))
    assert all(whole == told for whole, told in answers)
    assert {whole for whole, _ in answers} == {f"text {n}, end" for n in range(30)}


async def test_long_conversations_are_understood(vendor: Vendor) -> None:
    call = RequestedToolCall("tcall_1", "tool.kv.put", "tool.kv.put", {"n": 2**70, "s": "ü"})
    behind = [
        ChatMessage("assistant", ""),
        ChatMessage("user", "go on"),
        ChatMessage("user", "and on"),
        ChatMessage("assistant", "", tool_calls=(call, replace(call, tool_call_id="tcall_2"))),
        ChatMessage("tool", "plain words", "tcall_1"),
        ChatMessage("tool", "", "tcall_2"),
        ChatMessage("system", "be kind"),
        ChatMessage("user", "last"),
    ]
    async with served(vendor, vendor.text("ok")) as (server, backend):
        asked = replace(
            request("there/m", "hi", behind=behind, tools=TOOLS, max_output_tokens=9),
            temperature=0.5,
            top_p=0.9,
            stop=("END",),
        )
        assert (await backend.chat(caller(), "m", asked)).content == "ok"
    sent = server.raw_bodies[0].decode()
    for word in ("be brief", "be kind", "go on", "and on", "last", "plain words", "END", "0.9"):
        assert word in sent
    assert str(2**70) in sent


async def test_embeddings_come_in_the_order_of_their_texts(vendor: Vendor) -> None:
    asked = EmbedRequest("req_1", "there/e", ["a", "b", "c"])
    vectors = [[1.0, 0.5], [0.0, -2.0], [0.25, 3.0]]
    if vendor.embeddings is None:
        async with served(vendor, vendor.text("x")) as (server, backend):
            error = await failure(vendor, backend.embed(caller(), "m", asked))
        assert isinstance(error, InvalidRequestError)
        assert not server.bodies
        return
    async with served(vendor, vendor.embeddings(vectors)) as (_, backend):
        answer = await backend.embed(caller(), vendor.embed_model, asked)
    assert [list(vector) for vector in answer.vectors] == vectors
    assert answer.backend == "there"
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens == 0


@pytest.mark.parametrize(
    "reply",
    [
        raw(b"{}", "application/json"),
        raw(b"[]", "application/json"),
        raw(b"<html>", "text/html"),
        raw(b'{"data": [{"index": 0, "embedding": ["x"]}]}', "application/json"),
        raw(b'{"data": [{"index": 0, "embedding": []}]}', "application/json"),
        raw(b'{"data": [{"index": 0, "embedding": "AAAA"}]}', "application/json"),
        raw(b'{"data": [{"index": 1, "embedding": [1.0]}]}', "application/json"),
        raw(b'{"embeddings": [{"values": [1]}, {"values": [1]}]}', "application/json"),
        raw(b'{"embeddings": [{"values": "x"}]}', "application/json"),
        raw(b'{"embedding": {}, "inputTextTokenCount": 1}', "application/json"),
    ],
)
async def test_wrong_embeddings_are_a_provider_error(vendor: Vendor, reply: Reply) -> None:
    if vendor.embeddings is None:
        return
    async with served(vendor, reply) as (_, backend):
        asked = EmbedRequest("req_1", "there/e", ["a"])
        error = await failure(vendor, backend.embed(caller(), vendor.embed_model, asked))
    assert isinstance(error, ProviderError)
    assert error.details["stage"] == "answer"


@pytest.mark.parametrize("url", ["ftp://x/v1", "http://user:pass@x/v1", "nonsense", "http://x?k=1"])
def test_a_base_url_that_is_none_is_refused(vendor: Vendor, url: str) -> None:
    with pytest.raises(ValueError, match="base URL"):
        make_backend(vendor.entry(url), vendor.key)


def test_a_key_that_fits_no_header_is_refused_and_not_shown(vendor: Vendor) -> None:
    with pytest.raises(ValueError, match="key") as caught:
        make_backend(vendor.entry("http://x/v1"), "sk-hidden\r\nX: 1")
    assert "hidden" not in str(caught.value)


def test_the_key_is_not_shown(vendor: Vendor) -> None:
    assert vendor.key not in repr(vars(make_backend(vendor.entry("http://x/v1"), vendor.key)))


def test_the_half_usage_is_what_the_rule_says() -> None:
    assert {"input_tokens": math.ceil(10 / 4), "output_tokens": 1} == HALF_USAGE
