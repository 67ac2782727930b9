"""`POST /v1/models:invoke`: the canonical call over HTTP."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import jwt
import pytest

from agentos.domain.auth import USER_SCOPES, AuthContext, Principal
from agentos.infra.models.gateway_client import RunTokens
from tests.gateways.conftest import SECRET, token
from tests.gateways.model_policy.world import World, a_door, a_world, new_id, openai_catalog
from tests.infra.models.openai_server import hang, openai_server, text_stream


class Asking:
    """A world, its door, and a client of it."""

    def __init__(self, world: World, http: aiohttp.ClientSession) -> None:
        self.world = world
        self.http = http

    async def invoke(
        self, request: dict[str, Any], bearer: str = "", **more: Any
    ) -> tuple[int, dict[str, Any]]:
        """Call; returns status and body."""
        headers = {"Authorization": f"Bearer {bearer or token(tenant_id='tnt_a')}"}
        body = {"request": request, **more}
        async with self.http.post("/v1/models:invoke", json=body, headers=headers) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def asking() -> AsyncIterator[Asking]:
    async with (
        a_world() as world,
        world.services() as services,
        a_door(services) as door,
        aiohttp.ClientSession(door.url) as http,
    ):
        yield Asking(world, http)


def chat(text: str, model: str = "builtin/echo", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {
        "request_id": new_id("req"),
        "operation": "chat",
        "model_ref": model,
        "input": {"messages": messages},
        **more,
    }


async def test_a_chat_has_the_contracts_shape() -> None:
    async with asking() as ask:
        request = chat("hi there")
        status, body = await ask.invoke(request)
        assert status == 200
        response = body["response"]
        assert response["request_id"] == request["request_id"]
        assert response["status"] == "ok"
        assert response["output"]["type"] == "chat"
        assert response["output"]["message"] == {"role": "assistant", "content": "hi there"}
        assert response["output"]["tool_calls"] == []
        assert response["usage"] == {"input_tokens": 2, "output_tokens": 2, "total_tokens": 4}
        assert set(response["route"]) == {"backend", "model", "node", "fallback_used"}
        assert set(response["policy_outcome"]) == {"decision", "reasons", "redactions"}
        assert body["correlation_id"]
        assert body["traceparent"].startswith("00-")


async def test_an_embedding_has_arrays_whatever_is_asked_for() -> None:
    async with asking() as ask:
        request = {
            "request_id": "emb 1",
            "operation": "embed",
            "model_ref": "tier:fast",
            "input": {"texts": ["a", "b"], "encoding_format": "base64"},
        }
        status, body = await ask.invoke(request)
        assert status == 200, body
        first, second = body["response"]["output"]["embeddings"]
        assert (first["index"], second["index"]) == (0, 1)
        assert len(first["vector"]) == 64


async def test_a_model_asks_for_tools_by_the_callers_names() -> None:
    tools = [{"tool_id": "tool.calculate", "name": "calc", "input_schema": {"type": "object"}}]
    async with asking() as ask:
        request = chat("calculate 6 * 7", "builtin/scripted")
        request["input"]["tools"] = tools
        _, body = await ask.invoke(request)
        (call,) = body["response"]["output"]["tool_calls"]
        assert call["tool_id"] == "tool.calculate"
        assert call["arguments"] == {"expression": "6 * 7"}
        assert body["response"]["output"]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model_ref": "no/such"}, "invalid_request"),
        ({"operation": "embed"}, "invalid_request"),
        ({"operation": "sing"}, "invalid_request"),
        ({"input": {"texts": ["a"]}}, "invalid_request"),
        ({"generation": {"max_output_tokens": 0}}, "invalid_request"),
        ({"generation": {"max_output_tokens": 1_000_000_000}}, "invalid_request"),
        ({"request_id": ""}, "invalid_request"),
        ({"requirements": {"min_context_tokens": 999_999_999}}, "invalid_request"),
        ({"input": {"messages": [{"role": "user", "content": "a"}], "tool_choice": "x"}},
         "invalid_request"),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_400(change: dict[str, Any], code: str) -> None:
    async with asking() as ask:
        status, body = await ask.invoke({**chat("hi"), **change})
        assert (status, body["error"]["code"]) == (400, code)


async def test_the_same_id_again_is_the_same_answer_and_another_body_a_conflict() -> None:
    async with asking() as ask:
        request = chat("hi")
        first = await ask.invoke(request, traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01")
        again = await ask.invoke(request)
        assert first[1]["response"] == again[1]["response"]
        status, body = await ask.invoke({**chat("ho"), "request_id": request["request_id"]})
        assert (status, body["error"]["code"]) == (409, "conflict")


@pytest.mark.parametrize("sent", ["nonsense", "", f"00-{'0' * 32}-{'2' * 16}-01", "ÿ"])
async def test_a_bodys_trace_goes_before_the_headers_if_it_fits(sent: str) -> None:
    async with asking() as ask:
        trace = f"00-{'1' * 32}-{'2' * 16}-01"
        _, body = await ask.invoke(chat("hi"), traceparent=trace)
        assert body["traceparent"][:36] == trace[:36]
        assert body["traceparent"] != trace  # the call is a span of its own
        status, body = await ask.invoke(chat("hi"), traceparent=sent)
        assert status == 200
        assert body["traceparent"][3:35] not in ("0" * 32, "1" * 32)


async def test_a_bodys_auth_narrows_and_never_widens() -> None:
    async with asking() as ask:
        status, body = await ask.invoke(chat("hi"), auth={"scopes": ["platform:admin"]})
        assert (status, body["error"]["code"]) == (403, "forbidden")
        status, body = await ask.invoke(chat("hi"), auth={"scopes": ["models:list"]})
        assert (status, body["error"]["details"]["required_scope"]) == (403, "models:invoke")
        status, body = await ask.invoke(chat("hi"), auth={"tenant_id": "tnt_b"})
        assert (status, body["error"]["code"]) == (400, "tenant_mismatch")


async def test_a_block_says_why() -> None:
    async with asking() as ask:
        rule = {
            "name": "no-plans",
            "effect": "block",
            "when": {"content_patterns": [{"name": "plan", "regex": "secret plan"}]},
        }
        await ask.world.policy(rule)
        async with asyncio.timeout(5):
            status = 200
            while status == 200:
                status, body = await ask.invoke(chat("the secret plan"))
        assert (status, body["error"]["code"]) == (403, "policy_blocked")
        assert body["error"]["details"]["policy_outcome"]["decision"] == "blocked"
        assert body["error"]["details"]["request_id"]


async def read_events(answer: aiohttp.ClientResponse) -> list[tuple[str, dict[str, Any]]]:
    text = (await answer.read()).decode()
    events = []
    for frame in text.strip().split("\n\n"):
        name, data = frame.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


async def test_a_stream_ends_with_the_whole_response() -> None:
    async with asking() as ask, openai_server(text_stream("one ", "two ", "three")) as server:
        await ask.world.catalog(**openai_catalog(server.base_url))
        body = {"request": chat("hi", "a/m"), "stream": True}
        headers = {"Authorization": f"Bearer {token(tenant_id='tnt_a')}"}
        async with ask.http.post("/v1/models:invoke", json=body, headers=headers) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            events = await read_events(answer)
        *deltas, (last, data) = events
        assert {name for name, _ in deltas} == {"agentos.delta"}
        assert "".join(delta["text"] for _, delta in deltas) == "one two three"
        assert last == "agentos.response"
        assert data["response"]["output"]["message"]["content"] == "one two three"


async def test_a_stream_that_fails_before_its_first_text_is_a_plain_error() -> None:
    async with asking() as ask:
        status, body = await ask.invoke(chat("hi", "no/such"), stream=True)
        assert (status, body["error"]["code"]) == (400, "invalid_request")


async def test_a_client_that_leaves_stops_the_call_upstream() -> None:
    async with asking() as ask, openai_server(hang) as server:
        await ask.world.catalog(**openai_catalog(server.base_url))
        for stream in (False, True):
            server.asked.clear()
            server.left.clear()
            call = asyncio.create_task(ask.invoke(chat("hi", "a/m"), stream=stream))
            async with asyncio.timeout(5):
                await server.asked.wait()
                call.cancel()
                await server.left.wait()
            await asyncio.gather(call, return_exceptions=True)


async def test_only_the_runtime_says_whose_run_it_is() -> None:
    origin = {"agent_id": "agt_a", "run_id": "run_1", "is_first": True}
    auth = AuthContext(
        tenant_id="tnt_a", principal=Principal(principal_id="usr_r"), scopes=USER_SCOPES
    )
    async with asking() as ask:
        await ask.invoke({**chat("hi"), "origin": origin})
        status, _ = await ask.invoke({**chat("hi"), "origin": origin}, RunTokens(SECRET).of(auth))
        assert status == 200
        forged = {"iss": "agentos-runtime", "aud": "agentos-runtime", "exp": time.time() + 60}
        for claims, secret in (
            ({**forged, "auth": auth.model_dump(mode="json")}, "another-secret-of-32-bytes-length"),
            (forged, SECRET),
            ({**forged, "aud": "agentos", "auth": auth.model_dump(mode="json")}, SECRET),
        ):
            bearer = jwt.encode(claims, secret, algorithm="HS256")
            assert (await ask.invoke(chat("hi"), bearer))[0] == 401
        usage = await ask.world.written(2)
        assert [u.run_id for u in usage] == [None, "run_1"]
