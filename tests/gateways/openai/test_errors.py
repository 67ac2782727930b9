"""Errors of every layer on these paths, as the official client raises them."""

import json
import time
from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI

from tests.gateways.conftest import bearer, token
from tests.gateways.openai.conftest import ModelDoor

PATHS = ("/v1/chat/completions", "/v1/embeddings", "/v1/responses")
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def ask(client: AsyncOpenAI, text: str) -> None:
    await client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])


@pytest.mark.parametrize(
    ("line", "kind", "status", "type_", "retried"),
    [
        ("invalid_request", sdk.BadRequestError, 400, "invalid_request_error", "false"),
        ("unauthorized", sdk.AuthenticationError, 401, "authentication_error", "false"),
        ("forbidden", sdk.PermissionDeniedError, 403, "permission_error", "false"),
        ("policy_blocked", sdk.PermissionDeniedError, 403, "permission_error", "false"),
        ("not_found", sdk.NotFoundError, 404, "not_found_error", "false"),
        ("conflict", sdk.ConflictError, 409, "invalid_request_error", "false"),
        ("rate_limited", sdk.RateLimitError, 429, "rate_limit_error", None),
        (
            'quota_exceeded {"retryable": false}',
            sdk.RateLimitError,
            429,
            "rate_limit_error",
            "false",
        ),
        ("provider_error", sdk.InternalServerError, 502, "server_error", None),
        ("dependency_unavailable", sdk.InternalServerError, 503, "server_error", None),
        ("timeout", sdk.InternalServerError, 504, "server_error", None),
    ],
)
async def test_errors_of_the_pipeline(
    openai: AsyncOpenAI,
    line: str,
    kind: type[sdk.APIStatusError],
    status: int,
    type_: str,
    retried: str | None,
) -> None:
    with pytest.raises(kind) as raised:
        await ask(openai, f"fail {line}")
    error, code = raised.value, line.split(maxsplit=1)[0]
    assert (error.status_code, error.code, error.type) == (status, code, type_)
    assert error.response.headers.get("x-should-retry") == retried
    body = error.response.json()
    assert set(body) == {"error", "correlation_id"}
    assert set(body["error"]) == {"message", "type", "param", "code", "retryable", "details"}
    assert body["error"]["message"] == f"told to fail: {code}"
    assert body["correlation_id"] == error.response.headers["x-correlation-id"]
    assert error.request_id == error.response.headers["x-request-id"]


async def test_a_stream_that_fails_before_it_begins(openai: AsyncOpenAI) -> None:
    with pytest.raises(sdk.RateLimitError):
        await openai.chat.completions.create(stream=True, **_chat("fail rate_limited"))
    with pytest.raises(sdk.PermissionDeniedError):
        await openai.responses.create(model="m", input="fail policy_blocked", stream=True)


def _chat(text: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


async def test_retry_after_is_honoured(models: ModelDoor) -> None:
    async with models.client(max_retries=1) as client:
        began = time.monotonic()
        with pytest.raises(sdk.RateLimitError) as raised:
            await ask(client, 'fail rate_limited {"retry_after_ms": 1300}')
    assert time.monotonic() - began >= 1.3
    assert raised.value.response.headers["retry-after"] == "2"
    assert raised.value.response.headers["retry-after-ms"] == "1300"
    assert len(models.pipeline.asked) == 2


async def test_what_is_not_to_be_repeated_is_not(models: ModelDoor) -> None:
    async with models.client(max_retries=3) as client:
        with pytest.raises(sdk.ConflictError):
            await ask(client, "fail conflict")
    assert len(models.pipeline.asked) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_every_layer_speaks_the_same_shape(models: ModelDoor, path: str) -> None:
    narrow = bearer(scope="runs:read", roles=None)
    asked: list[tuple[Any, dict[str, str] | None, int, str, str]] = [
        (CHAT, {}, 401, "unauthorized", "authentication_error"),
        (CHAT, bearer(exp=1), 401, "unauthorized", "authentication_error"),
        (CHAT, narrow, 403, "forbidden", "permission_error"),
        (b"{", None, 400, "invalid_json", "invalid_request_error"),
        (b'{"a": "\xff"}', None, 400, "invalid_json", "invalid_request_error"),
        (b"[" * 100_000, None, 400, "invalid_json", "invalid_request_error"),
        ([], None, 400, "invalid_request", "invalid_request_error"),
        (b"x" * 10_000_000, None, 413, "payload_too_large", "invalid_request_error"),
        (
            {"model": "m", "auth": {"tenant_id": "tnt_b"}, "input": "a", **CHAT},
            None,
            400,
            "tenant_mismatch",
            "invalid_request_error",
        ),
        (
            {"auth": {"scopes": ["platform:admin"]}, "input": "a", **CHAT},
            None,
            403,
            "forbidden",
            "permission_error",
        ),
        (
            {"auth": {"scopes": ["runs:read"]}, "input": "a", **CHAT},
            None,
            403,
            "forbidden",
            "permission_error",
        ),
        (CHAT, {**bearer(), "X-API-Key": "x"}, 400, "invalid_request", "invalid_request_error"),
    ]
    for body, headers, status, code, type_ in asked:
        got, answer, sent = await models.post(path, body, headers)
        error = answer["error"]
        assert (got, error["code"], error["type"]) == (status, code, type_), body
        assert set(error) == {"message", "type", "param", "code", "retryable", "details"}
        assert answer["correlation_id"] == sent["X-Correlation-Id"]
    assert models.pipeline.asked == []


@pytest.mark.parametrize("path", PATHS)
async def test_another_method_too(models: ModelDoor, path: str) -> None:
    async with models.http.get(path) as response:
        answer = await response.json()
    assert (response.status, response.headers["Allow"]) == (405, "POST")
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["code"] == "method_not_allowed"


async def test_other_paths_keep_the_contract_s_shape(models: ModelDoor) -> None:
    status, answer, _ = await models.post("/v1/completions", {})
    assert status == 404
    assert set(answer["error"]) == {"code", "message", "retryable", "details"}


async def test_the_client_s_own_classes(models: ModelDoor) -> None:
    async with models.client(api_key="nonsense") as client:
        with pytest.raises(sdk.AuthenticationError):
            await ask(client, "hi")
    async with models.client(api_key=token(scope="runs:read", roles=None)) as client:
        with pytest.raises(sdk.PermissionDeniedError):
            await ask(client, "hi")
    async with models.client() as client:
        with pytest.raises(sdk.BadRequestError, match="no such model"):
            await client.chat.completions.create(
                model="unknown/model", messages=[{"role": "user", "content": "hi"}]
            )


async def test_a_prompt_that_is_too_large(openai: AsyncOpenAI) -> None:
    with pytest.raises(sdk.APIStatusError) as raised:
        await ask(openai, "x" * 10_000_000)
    assert (raised.value.status_code, raised.value.code) == (413, "payload_too_large")


async def test_an_unexpected_error_shows_nothing(models: ModelDoor) -> None:
    status, answer, _ = await models.post("/v1/chat/completions", _chat("fail no_such_code"))
    assert (status, answer["error"]["code"]) == (500, "internal_error")
    assert "no_such_code" not in json.dumps(answer)


async def test_an_unexpected_error_in_a_stream(models: ModelDoor) -> None:
    body = {**_chat("say a\nfail no_such_code"), "stream": True}
    async with models.http.post(
        PATHS[0], json=body, headers={"Authorization": f"Bearer {models.key}"}
    ) as response:
        raw = await response.read()
    assert b'"code":"internal_error"' in raw
    assert b"no_such_code" not in raw
    assert b"[DONE]" not in raw
