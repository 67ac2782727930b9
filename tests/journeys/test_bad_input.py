"""What a node is sent by the careless and the hostile: the contract's error, or survival."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest

from agentos.projections.cursor import encode_cursor
from agentos.projections.runs.queries import RunFilters
from tests.journeys.raw_http import get, one_answer, post, raw_connection
from tests.journeys.real_node import Client, RealNode, real_node
from tests.journeys.second_tenant import make_tenant

RUNS: Final = "/v1/agents/agt_demo/runs"
OTHER: Final = "tnt_other"
GOOD: Final = {"input": {"type": "text", "text": "hello"}}


@pytest.fixture(scope="module")
def node() -> Iterator[RealNode]:
    with real_node() as node:
        asyncio.run(make_tenant(node, OTHER, "agt_theirs"))
        yield node


@pytest.fixture
async def client(node: RealNode) -> AsyncIterator[Client]:
    async with node.client() as client:
        yield client


def check_error(status: int, answer: dict[str, Any], expected: tuple[int, str]) -> None:
    """The answer is the contract's error object, with this status and code."""
    assert set(answer) == {"error", "correlation_id"}, answer
    assert set(answer["error"]) == {"code", "message", "retryable", "details"}
    assert (status, answer["error"]["code"]) == expected, answer


def text(value: Any) -> bytes:
    """Return a run's body whose text is `value`."""
    return json.dumps({"input": {"type": "text", "text": value}}).encode()


BODIES: Final[dict[str, tuple[bytes, str]]] = {
    "empty": (b"", "invalid_json"),
    "not json": (b"{", "invalid_json"),
    "two values": (b"{} {}", "invalid_json"),
    "single quotes": (b"{'input': 1}", "invalid_json"),
    "invalid utf-8": (b'{"input":{"type":"text","text":"\xff\xfe"}}', "invalid_json"),
    "utf-16": (json.dumps(GOOD).encode("utf-16"), "invalid_json"),
    "deep array": (b"[" * 100_000, "invalid_json"),
    "deep metadata": (
        b'{"input":{"type":"text","text":"x"},"context":{"metadata":'
        + b'{"a":' * 50_000
        + b"1"
        + b"}" * 50_000
        + b"}}",
        "invalid_json",
    ),
    "a list": (b"[]", "invalid_request"),
    "null": (b"null", "invalid_request"),
    "a number": (b"1e400", "invalid_request"),
    "no input": (b"{}", "invalid_request"),
    "text is a number": (text(7), "invalid_request"),
    "text is null": (text(None), "invalid_request"),
    "text is a list": (text(["x"]), "invalid_request"),
    "text with NUL": (text("a\0b"), "invalid_request"),
    "half a surrogate": (b'{"input":{"type":"text","text":"\\ud800"}}', "invalid_json"),
    "text too long": (text("x" * (256 * 1024 + 1)), "invalid_request"),
    "unknown type": (b'{"input":{"type":"image","text":"x"}}', "invalid_request"),
    "bad options": (
        b'{"input":{"type":"text","text":"x"},"run_options":{"timeout_ms":0,"max_steps":"many"}}',
        "invalid_request",
    ),
    "a number for a truth": (
        b'{"input":{"type":"text","text":"x"},"run_options":{"dry_run":0}}',
        "invalid_request",
    ),
    "text for a number": (
        b'{"input":{"type":"text","text":"x"},"run_options":{"max_steps":"5"}}',
        "invalid_request",
    ),
    "huge number": (
        b'{"input":{"type":"text","text":"x"},"run_options":{"max_steps":1%b}}' % (b"0" * 400),
        "invalid_request",
    ),
    "NaN": (
        b'{"input":{"type":"text","text":"x"},"context":{"metadata":{"a":NaN}}}',
        "invalid_request",
    ),
    "bad tool ids": (
        b'{"input":{"type":"text","text":"x"},"tooling":{"tool_allowlist":["tool.*","tool.>"]}}',
        "invalid_request",
    ),
    "bad time zone": (
        b'{"input":{"type":"text","text":"x"},"context":{"timezone":"../../etc/passwd"}}',
        "invalid_request",
    ),
    "key with newline": (
        b'{"input":{"type":"text","text":"x"},"idempotency_key":"a\\nb"}',
        "invalid_request",
    ),
    "key too long": (
        b'{"input":{"type":"text","text":"x"},"idempotency_key":"%b"}' % (b"k" * 257),
        "invalid_request",
    ),
    "auth is text": (b'{"input":{"type":"text","text":"x"},"auth":"me"}', "invalid_request"),
    "auth of another": (
        b'{"input":{"type":"text","text":"x"},"auth":{"tenant_id":"tnt_other"}}',
        "tenant_mismatch",
    ),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_does_not_fit_is_400(node: RealNode, name: str) -> None:
    body, code = BODIES[name]
    for path in (RUNS, f"{RUNS}:stream"):
        status, _, answer = await one_answer(node.ports["orchestrator"], post(path, body))
        check_error(status, answer, (400, code))
        if code == "invalid_request":
            assert answer["error"]["details"]["errors"]


async def test_a_huge_body_is_413_announced_or_not(node: RealNode) -> None:
    port = node.ports["orchestrator"]
    head = post(RUNS, b"").replace(b"Content-Length: 0", b"Content-Length: 99999999999")
    status, _, answer = await one_answer(port, head)
    check_error(status, answer, (413, "payload_too_large"))
    chunked = post(RUNS, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    async with raw_connection(port) as connection:
        await connection.send(chunked)
        for _ in range(24):
            await connection.send(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        status, _, body = await connection.answer()
        check_error(status, json.loads(body), (413, "payload_too_large"))


async def test_what_is_no_http_is_refused(node: RealNode) -> None:
    port = node.ports["orchestrator"]
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /%ff\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        get("/healthz", b"X-Long: " + b"x" * 70_000 + b"\r\n"),
        get("/" + "x" * 70_000),
        post(RUNS, b"x", b"Content-Length: 5\r\n"),
        post(RUNS, b"", b"Content-Length: -1\r\n"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        status, _, answer = await one_answer(port, data)
        check_error(status, answer, (400, "invalid_request"))


IDS: Final = (
    "agt.demo agt_de.mo agt_* agt_> * > agt_%20x agt_a%0Ab agt_%2e%2e agt_%2Fx %2e%2e%2f agt_x%00 "
    "AGT_X agt_ agt_%F0%9F%98%80 agt_%FF agt_x%7F _x a_x agt_x%0D%0ASet-Cookie:x"
).split()


async def test_ids_that_could_harm_a_subject_never_get_there(node: RealNode) -> None:
    port = node.ports["orchestrator"]
    long_id = "agt_" + "x" * 101
    for bad in [*IDS, long_id, "agt_" + "x" * 30_000]:
        for request in (
            get(f"/v1/agents/{bad}"),
            get(f"/v1/runs/{bad}"),
            get(f"/v1/runs/{bad}/wait"),
            get(f"/v1/runs/{bad}/events"),
            post(f"/v1/runs/{bad}:cancel", b""),
            post(f"/v1/agents/{bad}/runs", json.dumps(GOOD).encode()),
        ):
            status, _, answer = await one_answer(port, request)
            assert status in (400, 404), (bad, request[:80], answer)
            assert answer["error"]["code"] in ("invalid_request", "not_found")
    for unknown in ("/v1/agents/agt_unknown", "/v1/runs/run_unknown", "/v1/runs/agt_demo"):
        status, _, answer = await one_answer(port, get(unknown))
        check_error(status, answer, (404, "not_found"))
    status, _, answer = await one_answer(
        port, post("/v1/agents/agt_unknown/runs", json.dumps(GOOD).encode())
    )
    check_error(status, answer, (404, "not_found"))


async def test_a_tenant_header_that_could_harm_a_subject_is_refused(client: Client) -> None:
    for tenant in ("*", ">", "tnt_a.b", "tnt_a b", "", "tnt_" + "x" * 101):
        for path in ("/v1/runs", "/v1/events", "/v1/runs/run_x"):
            headers = {"X-Tenant-Id": tenant}
            status, answer = await client.ask("GET", path, headers=headers)
            check_error(status, answer, (400, "invalid_request"))


async def test_sequences_and_event_ids_beyond_reason(node: RealNode, client: Client) -> None:
    run_id = await client.start("hello")
    await client.wait(run_id)
    events = f"/v1/runs/{run_id}/events"
    for bad in ("-1", str(2**80), "1e3", "x", "1.5", "%C2%B2", "0x10", "+1", "%D9%A1"):
        for path in (f"{events}?after_sequence={bad}", f"{events}?from_sequence={bad}"):
            status, _, answer = await one_answer(node.ports["orchestrator"], get(path))
            check_error(status, answer, (400, "invalid_request"))
        status, answer = await client.ask("GET", f"/v1/events?after={bad}")
        check_error(status, answer, (400, "invalid_request"))
    for beyond in ("1000000", str(2**63 - 1)):
        assert await client.ask("GET", f"{events}?after_sequence={beyond}") == (204, {})
        assert await client.ask("GET", events, headers={"Last-Event-ID": beyond}) == (204, {})
    for path in (f"{events}?types=run.nothing", f"{events}?deltas=perhaps", "/v1/events?types=*"):
        status, answer = await client.ask("GET", path)
        check_error(status, answer, (400, "invalid_request"))


async def test_beyond_the_end_of_a_live_run_the_stream_waits(client: Client) -> None:
    run_id = await client.start("sleep 1500")
    seen = [e["sequence"] async for e in client.follow(run_id, "?after_sequence=1000000")]
    assert seen == []
    assert (await client.wait(run_id))["status"] == "completed"
    assert len(await client.events(run_id)) > 3


async def test_cursors_that_are_not_ours_are_refused(node: RealNode, client: Client) -> None:
    for _ in range(3):
        await client.wait(await client.start("hello"))
    cursor = await next_cursor(client)
    async with node.client(OTHER) as other:
        for path in (f"/v1/runs?cursor={cursor}", f"/v1/agents?cursor={cursor}"):
            status, answer = await other.ask("GET", path)
            check_error(status, answer, (400, "invalid_request"))
    # The cursor needs no key, so anybody can forge one: it may say nonsense, and harm nothing.
    scope = RunFilters().scope()
    forged = [
        encode_cursor("tnt_demo", scope, key)
        for key in (["no time", "run_x"], ["2026-01-01", "a\0b"], ["infinity", "x"], ["", ""])
    ]
    garbage = ["x", "%00", "a" * 2000, "%F0%9F%98%80", "AAAA", "=", cursor[:-2], cursor + "A"]
    for bad in [*forged[:2], forged[3], *garbage]:
        status, answer = await client.ask("GET", f"/v1/runs?limit=1&cursor={bad}")
        check_error(status, answer, (400, "invalid_request"))
    status, _ = await client.ask("GET", f"/v1/runs?limit=1&cursor={forged[2]}")
    assert status in (200, 400)


async def next_cursor(client: Client) -> str:
    """Return the cursor of a first page, once the list (it may lag) has more than one run."""
    async with asyncio.timeout(5):
        while True:
            status, answer = await client.ask("GET", "/v1/runs?limit=1")
            assert status == 200
            if "next_cursor" in answer:
                cursor: str = answer["next_cursor"]
                return cursor
            await asyncio.sleep(0.05)


async def test_query_parameters_that_do_not_fit(client: Client) -> None:
    for query in (
        "limit=0", "limit=201", "limit=x", "limit=1&limit=2", "status=done", "agent_id=*",
        "created_after=yesterday", "created_before=2026-13-01T00:00:00Z", "cursor=",
        "created_after=9999999-01-01T00:00:00Z", "status=", "label.a=%00",
    ):  # fmt: skip
        status, answer = await client.ask("GET", f"/v1/runs?{query}")
        check_error(status, answer, (400, "invalid_request"))
    for query in ("timeout_ms=60001", "timeout_ms=-1", "timeout_ms=x"):
        status, answer = await client.ask("GET", f"/v1/runs/run_x/wait?{query}")
        check_error(status, answer, (400, "invalid_request"))
    status, answer = await client.ask("GET", "/v1/runs?label.%F0%9F%98%80='%3B--&unknown=1")
    assert (status, answer["runs"]) == (200, [])


async def test_methods_and_paths_that_are_not_there(node: RealNode, client: Client) -> None:
    for method, path in (
        ("DELETE", "/v1/runs"), ("PUT", RUNS), ("OPTIONS", "/v1/runs"), ("TRACE", "/v1/runs"),
        ("PATCH", "/v1/agents/agt_demo"), ("OPTIONS", "/readyz"),
    ):  # fmt: skip
        status, answer = await client.ask(method, path)
        assert status in (404, 405), (method, path, answer)
        check_error(status, answer, (status, answer["error"]["code"]))
    port = node.ports["orchestrator"]
    for path in ("/", "/v1", "/v1/runs/", "//v1/runs", "/v1/runs/../runs", "/.env", "/v1/%2e%2e/"):
        status, _, answer = await one_answer(port, get(path))
        check_error(status, answer, (404, "not_found"))
    async with raw_connection(port) as connection:
        for path in ("/v1/runs", "/healthz", "/nothing"):
            await connection.send(get(path, method=b"HEAD") + get("/healthz"))
            status, _, _ = await connection.answer(has_body=False)
            assert status in (200, 404, 405)
            status, _, body = await connection.answer()  # nothing of a body stands in between
            assert status == 200
            assert json.loads(body)


async def test_headers_that_come_twice_or_contradict(node: RealNode) -> None:
    port = node.ports["orchestrator"]
    token = node.token("tnt_demo").encode()
    bearer = b"Authorization: Bearer " + token + b"\r\n"
    for more, expected in (
        (b"X-Tenant-Id: tnt_other\r\n", (400, "invalid_request")),
        (b"X-Principal-Id: usr_other\r\n", (400, "invalid_request")),
        (bearer + bearer, (400, "invalid_request")),
        (bearer + b"X-API-Key: x\r\n", (400, "invalid_request")),
        (b"X-API-Key: x\r\n", (401, "unauthorized")),
        (b"Authorization: Bearer \xff\xfe\r\n", (400, "invalid_request")),
        (b"Authorization: Basic eDp5\r\n", (401, "unauthorized")),
        (b"Authorization: Bearer " + token[:-3] + b"abc\r\n", (401, "unauthorized")),
        (b"Authorization: Bearer a.b.c\r\n", (401, "unauthorized")),
        (b"X-Scopes: agents:read\r\n", (403, "forbidden")),
    ):
        status, headers, answer = await one_answer(port, get("/v1/runs", more))
        check_error(status, answer, expected)
        assert headers["x-correlation-id"] == answer["correlation_id"]
    nobody = b"GET /v1/runs HTTP/1.1\r\nHost: x\r\n"
    status, _, answer = await one_answer(port, nobody + b"\r\n")
    check_error(status, answer, (401, "unauthorized"))
    mismatch = nobody + bearer + b"X-Tenant-Id: tnt_other\r\n\r\n"
    status, _, answer = await one_answer(port, mismatch)
    check_error(status, answer, (400, "tenant_mismatch"))
    for odd in (b"a\xff\xfeb", b"x" * 5000, b"a\tb", b"", "\N{GRINNING FACE}".encode(), b'a"b'):
        more = b"X-Correlation-Id: " + odd + b"\r\ntraceparent: 00-zz-yy-xx\r\n"
        status, headers, answer = await one_answer(port, get("/v1/runs", more))
        assert status in (200, 400)
        assert headers["x-correlation-id"] == answer["correlation_id"]
        assert 1 <= len(answer["correlation_id"]) <= 256


async def test_requests_sent_ahead_are_answered_in_their_order(node: RealNode) -> None:
    async with raw_connection(node.ports["orchestrator"]) as connection:
        body = json.dumps(GOOD).encode()
        await connection.send(
            get("/v1/runs/run_a") + post(RUNS, body) + post(RUNS, b"{") + get("/healthz") * 300
        )
        assert [(await connection.answer())[0] for _ in range(3)] == [404, 201, 400]
        assert {(await connection.answer())[0] for _ in range(300)} == {200}


async def test_a_tenant_that_never_was_gets_in_nowhere(node: RealNode, client: Client) -> None:
    run_id = await client.start("sleep 100")
    async with node.client("tnt_never") as other:
        for path in (f"/v1/runs/{run_id}", "/v1/runs", "/v1/agents", "/v1/events"):
            status, answer = await other.ask("GET", path)
            check_error(status, answer, (403, "tenant_unknown"))
        status, answer = await other.ask("POST", RUNS, json=GOOD)
        check_error(status, answer, (403, "tenant_unknown"))


async def test_tenants_see_nothing_of_one_another(node: RealNode, client: Client) -> None:
    run_id = await client.start("sleep 60000")
    heard: list[dict[str, Any]] = []

    async def listen(other: Client) -> None:
        async for _, data in other.frames("/v1/events?after=0-0"):
            heard.append(data)

    async with node.client(OTHER) as other:
        listening = asyncio.create_task(listen(other))
        for method, path in (
            ("GET", f"/v1/runs/{run_id}"),
            ("GET", f"/v1/runs/{run_id}/wait?timeout_ms=100"),
            ("GET", f"/v1/runs/{run_id}/events"),
            ("GET", "/v1/agents/agt_demo"),
        ):
            status, answer = await other.ask(method, path)
            check_error(status, answer, (404, "not_found"))
        refusal = (404, "not_found")
        status, answer = await other.cancel(run_id)
        check_error(status, answer, refusal)
        status, answer = await other.ask("POST", RUNS, json=GOOD)
        check_error(status, answer, refusal)
        assert (await other.ask("GET", "/v1/runs"))[1]["runs"] == []
        theirs = [a["agent_id"] for a in (await other.ask("GET", "/v1/agents"))[1]["agents"]]
        assert theirs == ["agt_theirs"]
        status, answer = await client.cancel(run_id)
        assert (status, answer["run"]["status"]) == (200, "canceled")
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert heard == []
