"""`GET /v1/usage` and `/v1/model-calls/{request_id}`: the tenant's own, by its filters."""

from typing import Any
from urllib.parse import quote

import pytest
from yarl import URL

from agentos.domain.times import to_ms
from agentos.projections.usage_by_window.queries import UsageFilters
from tests.gateways.conftest import TENANT, Door, bearer
from tests.projections.usage.test_usage_projections import call


def asked(door: Door) -> tuple[Any, ...]:
    return door.reads.asked[-1]


async def test_usage_has_the_contracts_shape(door: Door) -> None:
    script = await door.finished()
    door.reads.rows[TENANT, script.run_id] = type("Row", (), {"agent_id": "agt_a"})()
    status, body, _ = await door.call("GET", "/v1/usage")
    assert status == 200
    assert body["next_cursor"] == "more"
    (row,) = body["usage"]
    assert row["window"] == "day"
    assert to_ms(row["to"]) - to_ms(row["from"]) == 86_400_000
    assert (row["model"], row["agent_id"]) == (None, "agt_a")
    figures = {name: row[name] for name in ("runs", "tool_calls", "input_tokens", "cost_usd")}
    assert figures == {"runs": 1, "tool_calls": 0, "input_tokens": 30, "cost_usd": 0.0015}


async def test_filters_are_read_and_widened_to_whole_windows(door: Door) -> None:
    query = {
        "window": "hour",
        "from": "2026-11-20T10:59:59.999Z",
        "to": "2026-11-20T12:00:00.001Z",
        "model": "openai/gpt-x",
        "agent_id": "agt_x",
        "principal_id": "usr_x",
        "group_by": "principal_id, model",
        "limit": "7",
        "cursor": "c",
    }
    status, _, _ = await door.call("GET", "/v1/usage", params=query)
    assert status == 200
    since, until = to_ms("2026-11-20T10:00:00Z"), to_ms("2026-11-20T13:00:00Z")
    dimensions = ("model", "principal_id")
    filters = UsageFilters("hour", since, until, "openai/gpt-x", "agt_x", "usr_x", dimensions)  # type: ignore[arg-type]  # two of its words
    assert asked(door) == (TENANT, filters, 7, "c")


@pytest.mark.parametrize(
    "query",
    [
        {"window": "minute"},
        {"from": "yesterday"},
        {"from": "2026-11-21T00:00:00Z", "to": "2026-11-20T00:00:00Z"},
        {"group_by": "tenant_id"},
        {"agent_id": "agt_.>"},
        {"limit": "0"},
        {"limit": "201"},
    ],
)
async def test_what_does_not_fit_is_said(door: Door, query: dict[str, str]) -> None:
    status, body, _ = await door.call("GET", "/v1/usage", params=query)
    assert (status, body["error"]["code"]) == (400, "invalid_request")


async def test_another_tenant_is_for_platform_admins(door: Door) -> None:
    path = "/v1/usage?tenant_id=tnt_other"
    status, _, _ = await door.call("GET", path, headers=bearer(roles=["tenant_admin"]))
    assert status == 404
    assert (await door.call("GET", f"/v1/usage?tenant_id={TENANT}"))[0] == 200
    status, _, _ = await door.call("GET", path, headers=bearer(roles=["platform_admin"]))
    assert (status, asked(door)[0]) == (200, "tnt_other")


async def test_one_model_call(door: Door) -> None:
    there = {"principal_id": "usr_x", "ended_at": "2026-11-20T10:00:00.000Z"}
    one = {**call().model_dump(mode="json"), **there}
    door.reads.model_calls[TENANT, "req_1"] = one
    status, body, _ = await door.call("GET", "/v1/model-calls/req_1")
    assert (status, body["model_call"]) == (200, one)
    door.reads.model_calls["tnt_other", "req_2"] = one
    status, body, _ = await door.call("GET", "/v1/model-calls/req_2")
    assert (status, body["error"]["code"]) == (404, "not_found")
    for path in (f"/v1/model-calls/{'x' * 257}", "/v1/model-calls", "/v1/model-calls?request_id="):
        status, body, _ = await door.call("GET", path)
        assert (status, body["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "request_id",
    [
        "a/b",
        "/a//b/",
        "a?b#c",
        "100%",
        "a%2Fb",
        "a b",
        "ünï\u2028",
        "..",
        ".",
        "a+b&c=d",
        "x" * 256,
    ],
)
async def test_any_id_that_can_be_kept_can_be_explained(door: Door, request_id: str) -> None:
    there = {"principal_id": "usr_x", "ended_at": "2026-11-20T10:00:00.000Z"}
    one = {**call(request_id).model_dump(mode="json"), **there}
    door.reads.model_calls[TENANT, request_id] = one
    quoted = quote(request_id, safe="")
    paths = [f"/v1/model-calls?request_id={quoted}"]
    if request_id not in {".", ".."}:  # a client takes these out of a path
        paths.append(f"/v1/model-calls/{quoted}")
    for path in paths:
        status, body, _ = await door.call("GET", URL(path, encoded=True))
        assert (status, body["model_call"]["request_id"]) == (200, request_id)


async def test_an_openai_answer_s_id_is_its_request_s(door: Door) -> None:
    there = {"principal_id": "usr_x", "ended_at": "2026-11-20T10:00:00.000Z"}
    for request_id in ("req_1", "chatcmpl-2"):
        one = {**call(request_id).model_dump(mode="json"), **there}
        door.reads.model_calls[TENANT, request_id] = one
    for shown, own in (("chatcmpl-1", "req_1"), ("resp_1", "req_1"), ("chatcmpl-2", "chatcmpl-2")):
        status, body, _ = await door.call("GET", f"/v1/model-calls/{shown}")
        assert (status, body["model_call"]["request_id"]) == (200, own)
