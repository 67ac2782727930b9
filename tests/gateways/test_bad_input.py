"""Bodies, ids and cursors that do not fit: the contract's error, and nothing reaches a subject."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from yarl import URL

from agentos.gateways.http.bodies import BodyAuth, parse_body
from tests.gateways.conftest import AGENT, Door, bearer

GOOD: dict[str, Any] = {"input": {"type": "text", "text": "hi"}}


NOT_JSON = [
    b"",
    b"{",
    b"nonsense",
    b'{"input": {"type": "text", "text": "\xff"}}',
    b'{"input": {"type": "text", "text": "\\ud800"}}',
    b'{"input": {"type": "text", "text": "a\x00b"}}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"input": {"type": "text", "text": "hi"}} trailing',
]


async def test_what_is_not_json(door: Door) -> None:
    for body in NOT_JSON:
        status, answer = await door.create(body)
        assert (status, answer["error"]["code"]) == (400, "invalid_json"), body[:50]


MISFITS: list[tuple[Any, list[str]]] = [
    ([], ["body"]),
    (None, ["body"]),
    ({}, ["body", "input"]),
    ({"input": "hi"}, ["body", "input"]),
    ({"input": {"type": "audio", "text": "hi"}}, ["body", "input", "type"]),
    ({"input": {"type": "text", "text": 7}}, ["body", "input", "text"]),
    ({"input": {"type": "text", "text": "é" * 140_000}}, ["body", "input", "text"]),
    ({**GOOD, "context": {"timezone": "Mars/Base"}}, ["body", "context", "timezone"]),
    ({**GOOD, "run_options": {"max_steps": 0}}, ["body", "run_options", "max_steps"]),
    ({**GOOD, "run_options": {"timeout_ms": 10**30}}, ["body", "run_options", "timeout_ms"]),
    ({**GOOD, "idempotency_key": ""}, ["body", "idempotency_key"]),
    ({**GOOD, "idempotency_key": "a\nb"}, ["body", "idempotency_key"]),
    ({**GOOD, "tooling": {"tool_allowlist": ["tool.*"]}}, ["body", "tooling"]),
    ({**GOOD, "auth": 5}, ["body", "auth"]),
    ({**GOOD, "context": {"metadata": {"n": 2**70}}}, ["body", "context", "metadata", "n"]),
    ({**GOOD, "context": {"metadata": {"n": ["a\0b"]}}}, ["body", "context", "metadata", "n"]),
    ({**GOOD, "context": {"labels": {"a\0": "b"}}}, ["body", "context", "labels"]),
    ({**GOOD, "context": {"metadata": {"n": float("nan")}}}, ["body", "context"]),
    ({**GOOD, "context": {"metadata": {"n": float("-inf")}}}, ["body", "context"]),
]


async def test_json_that_does_not_fit(door: Door) -> None:
    for body, loc in MISFITS:
        status, answer = await door.create(body)
        assert (status, answer["error"]["code"]) == (400, "invalid_request"), body
        first = answer["error"]["details"]["errors"][0]
        assert first["loc"][: len(loc)] == loc
        assert first["msg"]
    assert door.sent == []


async def test_harmless_lookalikes_are_taken(door: Door) -> None:
    door.answer("run.create", {"run": {}, "position": 1, "existing": False})
    text = "NaN Infinity \\u0000 1234567890123456789012345"
    body = {"input": {"type": "text", "text": text}, "unknown": [None], "context": {}}
    status, _ = await door.create(body)
    assert status == 201
    assert door.sent[0][2]["request"]["input"]["text"] == text


def test_the_largest_integer_is_taken() -> None:
    body = parse_body(b'{"session": {"n": 9223372036854775807}}', BodyAuth)
    assert body.session == {"n": 2**63 - 1}


BAD_IDS = [
    "run_a.b",
    "run_*",
    "run_%3E",
    "run_a%20b",
    "run_",
    "RUN_a",
    "run_" + "x" * 101,
    "run_%00",
    "run_%0a",
    "run_%C3%A9",
    "%2e%2e",
    "run_a:cancel",
]


@pytest.mark.parametrize("path", ["/v1/runs/{}", "/v1/runs/{}/wait", "/v1/runs/{}/events"])
async def test_ids_that_must_never_reach_a_subject(door: Door, path: str) -> None:
    for bad in BAD_IDS:
        url = URL(door.urls[0] + path.format(bad), encoded=True)
        async with door.client.get(url, headers=bearer()) as response:
            body = await response.json()
        assert (response.status, body["error"]["code"]) == (400, "invalid_request"), bad
        assert body["error"]["details"]["errors"][0]["loc"] == ["path", "run_id"]


async def test_agent_ids_too(door: Door) -> None:
    for bad in ("agt_a.b", "agt_*", "agt_%3E", "agt"):
        url = URL(f"{door.urls[0]}/v1/agents/{bad}/runs", encoded=True)
        async with door.client.post(url, headers=bearer(), json=GOOD) as response:
            assert response.status == 400, bad
    body = {"agent_id": "agt_a.>", "name": "x", "model_ref": "m"}
    status, _, _ = await door.call(
        "POST", "/v1/agents", json=body, headers=bearer(roles=["tenant_admin"])
    )
    assert status == 400
    assert door.sent == []


BAD_FILTERS = [
    "limit=0",
    "limit=201",
    "limit=-1",
    "limit=ten",
    "limit=1e1",
    "limit=%D9%A3",
    "limit=1&limit=2",
    "status=done",
    "agent_id=agt.x",
    "created_after=yesterday",
    "created_after=2026-01-01T00:00:00",
    "created_before=0001-01-01T00:00:00Z",
    "label.a=b%00c",
    "cursor=" + "x" * 2000,
    "&".join(f"label.{n}=x" for n in range(17)),
]


async def test_filters_that_do_not_fit(door: Door) -> None:
    for query in BAD_FILTERS:
        url = URL(f"{door.urls[0]}/v1/runs?{query}", encoded=True)
        async with door.client.get(url, headers=bearer()) as response:
            body = await response.json()
        assert (response.status, body["error"]["code"]) == (400, "invalid_request"), query
    assert door.reads.asked == []


async def test_a_body_over_the_limit(door: Door) -> None:
    big = io.BytesIO(b'{"input": "' + b"x" * (1024 * 1024) + b'"}')
    status, answer, _ = await door.call("POST", f"/v1/agents/{AGENT}/runs", data=big)
    assert (status, answer["error"]["code"]) == (413, "payload_too_large")
    assert answer["error"]["details"] == {"limit": 1024 * 1024}


async def test_a_chunked_body_over_the_limit(door: Door) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 65_536

    status, body, _ = await door.call("POST", f"/v1/agents/{AGENT}/runs", data=chunks())
    assert (status, body["error"]["code"]) == (413, "payload_too_large")


async def test_a_chunked_body_within_the_limit(door: Door) -> None:
    door.answer("run.create", {"run": {}, "position": 1, "existing": False})

    async def chunks() -> AsyncIterator[bytes]:
        for byte in json.dumps(GOOD).encode():
            yield bytes([byte])

    status, _, _ = await door.call("POST", f"/v1/agents/{AGENT}/runs", data=chunks())
    assert status == 201


async def test_a_client_that_leaves_within_its_body(door: Door) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    head = f"POST /v1/agents/{AGENT}/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
    writer.write(head.encode() + f"Authorization: {bearer()['Authorization']}\r\n\r\n{{".encode())
    await writer.drain()
    writer.close()
    status, _, _ = await door.call("GET", "/healthz")
    assert status == 200


@pytest.mark.parametrize("key", ["", "a\tb", "x" * 257])
async def test_an_idempotency_key_that_does_not_fit(door: Door, key: str) -> None:
    headers = {**bearer(), "Idempotency-Key": key}
    status, body, _ = await door.call("POST", "/v1/runs/run_1:cancel", headers=headers)
    assert (status, body["error"]["code"]) == (400, "invalid_request")
