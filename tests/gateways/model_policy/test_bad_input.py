"""Bad input and bad upstreams, at every door of models, whole and streamed: in its own shape."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web

from tests.gateways.conftest import eventually, token
from tests.gateways.model_policy.world import World, a_door, a_world, new_id, openai_catalog
from tests.infra.models.fake_server import JSON, SSE, pieces, raw, sse, trickle
from tests.infra.models.openai_server import OpenAIServer, Reply, chunk, openai_server

TEXT: Final = "say so"


@dataclass(frozen=True)
class DoorShape:
    """How one door is asked, and how it says what went wrong."""

    path: str
    is_stream: bool
    is_openai: bool = True
    operation: str = "chat"

    def body(
        self,
        model: str = "a/m",
        text: str = TEXT,
        *,
        schema: Any = None,
        most: Any = None,
        auth: Any = None,
    ) -> dict[str, Any]:
        """Return a body that is good but for what is given."""
        body = self._canonical(model, text, schema, most)
        if self.path == "/v1/chat/completions":
            body = {"model": model, "messages": [{"role": "user", "content": text}]}
            body |= {} if most is None else {"max_tokens": most}
        elif self.is_openai:
            body = {"model": model, "input": text}
            body |= {} if most is None else {"max_output_tokens": most}
        if schema is not None and self.is_openai:
            function = {"name": "f", "parameters": schema}
            is_chat = self.path == "/v1/chat/completions"
            tool = {"function": function} if is_chat else function
            body["tools"] = [{"type": "function", **tool}]
        if self.is_stream:
            body["stream"] = True
        return body if auth is None else {**body, "auth": auth}

    def _canonical(self, model: str, text: str, schema: Any, most: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"texts": [text]}
        if self.operation == "chat":
            given = {"messages": [{"role": "user", "content": text}]}
        if schema is not None:
            given["tools"] = [{"tool_id": "f", "input_schema": schema}]
        request: dict[str, Any] = {
            "request_id": new_id("req"),
            "operation": self.operation,
            "model_ref": model,
            "input": given,
        }
        if most is not None:
            request["generation"] = {"max_output_tokens": most}
        return {"request": request}


CHATS: Final = (
    DoorShape("/v1/models:invoke", is_stream=False, is_openai=False),
    DoorShape("/v1/models:invoke", is_stream=True, is_openai=False),
    DoorShape("/v1/chat/completions", is_stream=False),
    DoorShape("/v1/chat/completions", is_stream=True),
    DoorShape("/v1/responses", is_stream=False),
    DoorShape("/v1/responses", is_stream=True),
)
EMBEDS: Final = (
    DoorShape("/v1/models:invoke", is_stream=False, is_openai=False, operation="embed"),
    DoorShape("/v1/embeddings", is_stream=False, operation="embed"),
)


def named(shape: DoorShape) -> str:
    return f"{shape.operation} {shape.path}{' streamed' if shape.is_stream else ''}"


every_door = pytest.mark.parametrize("shape", [*CHATS, *EMBEDS], ids=named)
chat_door = pytest.mark.parametrize("shape", CHATS, ids=named)


class Asking:
    """A world, its door, and an upstream `a/m` to taste."""

    def __init__(self, world: World, http: aiohttp.ClientSession, upstream: OpenAIServer) -> None:
        self.world, self.http, self.upstream = world, http, upstream

    async def post(self, shape: DoorShape, body: Any) -> tuple[int, bytes, str]:
        """Post a body (bytes as they are); returns status, body, content type."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token(tenant_id='tnt_a')}"}
        async with (
            asyncio.timeout(30),
            self.http.post(shape.path, data=io.BytesIO(data), headers=headers) as answer,
        ):
            return answer.status, await answer.read(), answer.content_type

    async def refused(self, shape: DoorShape, body: Any, status: int, code: str) -> dict[str, Any]:
        """Post what must be refused before any event; returns the error, in the door's shape."""
        got, content, kind = await self.post(shape, body)
        assert (got, kind) == (status, JSON), content[:500]
        return error_of(shape, json.loads(content), code)


def error_of(shape: DoorShape, body: dict[str, Any], code: str) -> dict[str, Any]:
    """Return the error in a body, once it is what the door's clients read."""
    error: dict[str, Any] = body["error"]
    assert error["code"] == code
    assert body["correlation_id"]
    assert {"message", "retryable", "details"} <= set(error)
    assert ({"type", "param"} <= set(error)) == shape.is_openai
    return error


@asynccontextmanager
async def asking(*replies: Reply, **timeouts: int) -> AsyncIterator[Asking]:
    async with a_world() as world, openai_server(*replies) as upstream:
        document = openai_catalog(upstream.base_url)
        document["models"][0]["capabilities"] = ["chat", "embed"]
        document["backends"][0] |= {"timeouts": timeouts, "any_model": True}
        await world.catalog(**document)
        async with (
            world.services() as services,
            a_door(services) as door,
            aiohttp.ClientSession(door.url) as http,
        ):
            yield Asking(world, http, upstream)


@every_door
async def test_what_is_asked_for_badly(shape: DoorShape) -> None:
    good = json.dumps(shape.body()).encode()
    async with asking() as ask:
        for model in ("no/such", "nobody", "tier:gold"):
            await ask.refused(shape, shape.body(model), 400, "invalid_request")
        huge = shape.body(text="x" * 10_000_000)
        await ask.refused(shape, huge, 413, "payload_too_large")
        for bad in (b"{", b"", b"\xff", good.replace(b"say so", b"say \xff"), b'{"a":' * 5000):
            await ask.refused(shape, bad, 400, "invalid_json")
        surrogate = good.replace(b"say so", b"\\ud800")
        await ask.refused(shape, surrogate, 400, "invalid_json")
        nul = good.replace(b"say so", b"\\u0000")
        await ask.refused(shape, nul, 400, "invalid_request")
        for bad in (b"[]", b"null", b'"x"', b"{}"):
            await ask.refused(shape, bad, 400, "invalid_request")
        assert not ask.upstream.bodies


@every_door
async def test_a_body_s_auth_does_not_widen(shape: DoorShape) -> None:
    async with asking() as ask:
        other = {"tenant_id": "tnt_b"}
        await ask.refused(shape, shape.body(auth=other), 400, "tenant_mismatch")
        for scopes in (["models:invoke", "platform:admin"], ["runs:read"], []):
            narrow = shape.body(auth={"tenant_id": "tnt_a", "scopes": scopes})
            await ask.refused(shape, narrow, 403, "forbidden")
        assert not ask.upstream.bodies


@every_door
async def test_a_model_that_the_tenant_may_not_use(shape: DoorShape) -> None:
    async with asking() as ask:
        await ask.world.tenant(entitlements={"models_denied": ["a/*"]})
        await ask.refused(shape, shape.body(), 403, "forbidden")
        await ask.world.tenant(entitlements={"model_backends_allowed": ["builtin"]})
        await ask.refused(shape, shape.body(), 403, "forbidden")
        assert not ask.upstream.bodies


@chat_door
@pytest.mark.parametrize("most", [0, -1, 1_000_000_000, 10**30, 1.5, "9"])
async def test_output_tokens_that_nobody_can_have(shape: DoorShape, most: Any) -> None:
    async with asking() as ask:
        await ask.refused(shape, shape.body(most=most), 400, "invalid_request")
        assert not ask.upstream.bodies


@chat_door
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": "object", "properties": []},
        {"type": "object", "required": "a"},
        {"type": "object", "properties": {"a": {"type": ["string", "x"]}}},
        {"type": "array"},
        "x",
        [1],
        b"1e999",
        b"-1E+999",
        b"NaN",
        b"9" * 25,
        b'"\\u0000"',
    ],
)
async def test_a_tool_schema_that_is_none(shape: DoorShape, schema: Any) -> None:
    body: Any = (
        shape.body(schema=schema)
        if not isinstance(schema, bytes)
        else json.dumps(
            shape.body(schema={"type": "object", "properties": {"a": {"default": "@"}}})
        )
        .encode()
        .replace(b'"@"', schema)
    )
    async with asking() as ask:
        error = await ask.refused(shape, body, 400, "invalid_request")
        assert "tools" in str(error["details"]["errors"][0]["loc"])
        assert not ask.upstream.bodies


async def test_tools_of_one_name_cannot_be_told_apart() -> None:
    shape = CHATS[0]
    async with asking() as ask:
        for names in (["f", "f"], ["auto"], ["required"]):
            body = shape.body()
            body["request"]["input"]["tools"] = [
                {"tool_id": name, "input_schema": {}} for name in names
            ]
            await ask.refused(shape, body, 400, "invalid_request")


HTML: Final = b"<html><body>come back later</body></html>"


@every_door
@pytest.mark.parametrize(
    "reply",
    [
        raw(HTML, "text/html"),
        raw(HTML, "text/html", 502),
        raw(HTML, JSON),
        raw(HTML, SSE),
        raw(b'{"error": {"message": "overloaded", "type": "x", "code": null}}', JSON),
        raw(b"", JSON),
        raw(b"\xff\xfe", JSON),
        raw(b"[]", JSON),
    ],
    ids=["html", "html 502", "as json", "as events", "an error", "nothing", "bytes", "list"],
)
async def test_an_upstream_that_answers_something_else(shape: DoorShape, reply: Reply) -> None:
    async with asking(reply) as ask:
        error = await ask.refused(shape, shape.body(), 502, "provider_error")
        assert "come back later" not in json.dumps(error)
        assert error["retryable"] is True


STREAM: Final = trickle(SSE)


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


@every_door
@pytest.mark.parametrize("reply", [STREAM, trickle(JSON), silent], ids=["sse", "json", "no"])
async def test_an_upstream_that_trickles_or_is_silent(shape: DoorShape, reply: Reply) -> None:
    async with asking(reply, idle_ms=200, total_ms=600) as ask:
        if shape.operation == "embed" and reply is STREAM:  # no vectors come as events
            await ask.refused(shape, shape.body(), 502, "provider_error")
        else:
            await ask.refused(shape, shape.body(), 504, "timeout")
        async with asyncio.timeout(20):
            await ask.upstream.left.wait()


async def endless(request: web.Request) -> web.StreamResponse:
    """Send words for ever."""
    response = web.StreamResponse(headers={"Content-Type": SSE})
    await response.prepare(request)
    while True:
        await response.write(sse(chunk({"content": "word "})))
        await asyncio.sleep(0.005)


def events(content: bytes) -> list[Any]:
    lines = [line[6:] for line in content.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) if line != b"[DONE]" else "[DONE]" for line in lines]


@pytest.mark.parametrize("shape", [shape for shape in CHATS if shape.is_stream], ids=named)
async def test_an_upstream_that_never_ends_is_ended(shape: DoorShape) -> None:
    """By the backend's time: an error event, no clean end; what was used is charged."""
    async with asking(endless, idle_ms=1000, total_ms=1500) as ask:
        status, content, kind = await ask.post(shape, shape.body())
        assert (status, kind) == (200, SSE)
        *_, last = events(content)
        assert last["error"]["code"] == "timeout"
        assert b"word" in content
        assert b"[DONE]" not in content
        assert b"response.completed" not in content
        await eventually(ask.upstream.left.is_set)
        (usage,) = await ask.world.written(1)
        assert (usage.status, usage.error and usage.error.code) == ("error", "timeout")
        assert usage.usage.output_tokens > 0


@pytest.mark.parametrize("shape", [shape for shape in CHATS if shape.is_stream], ids=named)
async def test_or_by_the_tokens_that_may_be_answered(shape: DoorShape) -> None:
    """A limit that the upstream does not keep to: it is stopped there, and the answer says why."""
    async with asking(endless) as ask:
        status, content, _ = await ask.post(shape, shape.body(most=20))
        assert status == 200
        assert b'"length"' in content or b"max_output_tokens" in content
        assert b"stopped:reservation_reached" in content
        await eventually(ask.upstream.left.is_set)
        (usage,) = await ask.world.written(1)
        assert 20 <= usage.usage.output_tokens <= 30


@pytest.mark.parametrize("shape", [shape for shape in CHATS if shape.is_stream], ids=named)
async def test_an_error_in_mid_stream_is_no_end(shape: DoorShape) -> None:
    broken = {"error": {"message": "overloaded", "type": "server_error"}}
    for then in ([sse(broken)], [b"data: <html>\n\n"], []):
        reply = pieces([sse(chunk({"content": "half of it "})), *then], SSE)
        async with asking(reply) as ask:
            status, content, _ = await ask.post(shape, shape.body())
            assert status == 200
            *_, last = events(content)
            assert last["error"]["code"] == "provider_error"
            assert b"[DONE]" not in content
