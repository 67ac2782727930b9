"""Every error of the contract's table, in its one shape."""

import asyncio
import json
import logging
from typing import Any

import pytest

from agentos.domain import errors
from agentos.domain.errors import AgentOSError
from agentos.gateways.http.errors import STATUS
from tests.gateways.conftest import AGENT, Door, bearer

RUN = {"input": {"type": "text", "text": "hi"}}


@pytest.mark.parametrize(
    ("error", "status", "retryable", "headers"),
    [
        (errors.InvalidRequestError("no", errors=[]), 400, False, {}),
        (errors.TenantMismatchError("no"), 400, False, {}),
        (errors.UnauthorizedError("no"), 401, False, {"WWW-Authenticate": "Bearer"}),
        (errors.ForbiddenError("no", required_scope="x"), 403, False, {}),
        (errors.TenantDisabledError("no"), 403, False, {}),
        (errors.TenantUnknownError("no"), 403, False, {}),
        (errors.NotFoundError("no"), 404, False, {}),
        (errors.ConflictError("no"), 409, False, {}),
        (errors.InvalidStateTransitionError("no", status="completed"), 409, False, {}),
        (errors.CursorExpiredError("no", first_sequence=5), 410, False, {}),
        (errors.PayloadTooLargeError("no"), 413, False, {}),
        (errors.RateLimitedError("no", retry_after_ms=1200), 429, True, {"Retry-After": "2"}),
        (errors.QuotaExceededError("no", limit=1, used=1), 429, True, {}),
        (
            errors.QuotaExceededError("no", limit=1, used=1, retryable=False),
            429,
            False,
            {"x-should-retry": "false"},
        ),
        (errors.ProviderError("no"), 502, True, {}),
        (errors.DependencyUnavailableError("no", dependency="nats"), 503, True, {}),
        (errors.TimedOutError("no"), 504, True, {}),
        (errors.InternalError("no"), 500, True, {}),
    ],
    ids=lambda value: value.code if isinstance(value, AgentOSError) else "",
)
async def test_an_error_of_a_handler_becomes_the_table_s_answer(
    door: Door, error: AgentOSError, status: int, retryable: bool, headers: dict[str, str]
) -> None:
    door.answer("run.create", error)
    sent = {**bearer(), "X-Correlation-Id": "mine"}
    found, body, answered = await door.call(
        "POST", f"/v1/agents/{AGENT}/runs", json=RUN, headers=sent
    )
    assert found == status
    assert body["error"]["code"] == error.code
    assert body["error"]["retryable"] is retryable
    assert body["error"]["message"] == "no"
    assert "retryable" not in body["error"]["details"]
    assert body["correlation_id"] == answered["X-Correlation-Id"] == "mine"
    assert answered["X-Request-Id"].startswith("req_")
    assert answered["X-Tenant-Id"] == "tnt_a"
    assert headers.items() <= dict(answered).items()
    assert ("x-should-retry" in answered) is ("x-should-retry" in headers)


def test_every_code_that_a_caller_may_see_has_a_status() -> None:
    only_in_runs = {"tool_failed", "model_failed", "interrupted", "max_steps", "budget"}
    assert set(errors.BY_CODE) - only_in_runs <= set(STATUS)


async def test_what_breaks_is_internal_and_shows_no_stack(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any) -> dict[str, Any]:
        raise RuntimeError("secret inner words")

    door.bus.handlers["run.create"] = broken
    with caplog.at_level(logging.ERROR):
        status, body = await door.create(RUN)
    assert (status, body["error"]["code"]) == (500, "internal_error")
    assert "secret" not in json.dumps(body)
    (record,) = [r for r in caplog.records if "unexpected" in r.message]
    assert record.exc_info
    assert record.__dict__["correlation_id"] == body["correlation_id"]
    assert record.__dict__["tenant_id"] == "tnt_a"
    assert len(record.__dict__["trace_id"]) == 32


async def test_no_handler_and_no_answer(door: Door) -> None:
    status, body = await door.create(RUN)
    assert (status, body["error"]["details"]["dependency"]) == (503, "handlers")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/runs/", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("PATCH", "/v1/runs", 405, "method_not_allowed"),
        ("DELETE", f"/v1/agents/{AGENT}", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
    ],
)
async def test_paths_and_methods_that_are_not_there(
    door: Door, method: str, path: str, status: int, code: str
) -> None:
    found, body, headers = await door.call(method, path)
    assert (found, body["error"]["code"]) == (status, code)
    assert body["correlation_id"] == headers["X-Correlation-Id"]


async def test_405_names_all_methods_of_the_path(door: Door) -> None:
    _, _, headers = await door.call("DELETE", f"/v1/agents/{AGENT}")
    assert headers["Allow"] == "GET, PUT"


@pytest.mark.parametrize("sent", ["a\tb", "é", "x" * 257, ""])
async def test_a_correlation_id_that_does_not_print_is_replaced(door: Door, sent: str) -> None:
    _, body, _ = await door.call("GET", "/healthz", headers={"X-Correlation-Id": sent})
    assert body["correlation_id"].startswith("corr_")


@pytest.mark.parametrize(
    ("sent", "continued"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", False),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", False),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", False),
        ("nonsense", False),
    ],
)
async def test_a_trace_is_continued_or_begun(door: Door, sent: str, continued: bool) -> None:
    door.answer("run.create", {"run": {}, "position": 1, "existing": False})
    await door.create(RUN, headers={**bearer(), "traceparent": sent})
    command = door.sent[0][2]
    used = command["traceparent"]
    assert (used[:36] == sent[:36]) is continued
    assert used[36:52] != sent[36:52]  # a span of its own
    assert command["parent_span_id"] == (sent[36:52] if continued else "0" * 16)
    assert len(used) == 55


async def _raw(door: Door, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(request)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_the_contract_s_shape(door: Door, request_bytes: bytes) -> None:
    answer = await _raw(door, request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "invalid_request"


async def test_metrics_count_routes_and_never_ids_or_tenants(door: Door) -> None:
    script = await door.finished()
    await door.call("GET", f"/v1/runs/{script.run_id}")
    await door.call("GET", "/v1/runs/run_other")
    await door.call("GET", "/v1/runs", headers={})
    async with door.client.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await response.text()
    line = 'agentos_http_requests_total{code="%s",method="GET",route="%s",service="%s"} 1.0'
    service = "agent-orchestrator"
    assert line % (200, "/v1/runs/{run_id}", service) in text
    assert line % (404, "/v1/runs/{run_id}", service) in text
    assert line % (401, "/v1/runs", service) in text
    assert 'agentos_auth_failures_total{reason="no_credential"} 1.0' in text
    assert "agentos_http_request_duration_seconds_bucket" in text
    assert "agentos_sse_streams 0.0" in text
    assert script.run_id not in text
    assert "tnt_" not in text
