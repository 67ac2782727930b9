"""The routes of runs and agents: what they send to the handlers, and what they read."""

import asyncio
import dataclasses
from typing import Any

import pytest

from agentos.domain.errors import DependencyUnavailableError, InvalidStateTransitionError
from agentos.projections.runs.queries import RunFilters
from agentos.projections.runs.row import RunRow
from tests.gateways.conftest import AGENT, TENANT, Door, RunScript, bearer, eventually, token

INPUT = {"type": "text", "text": "hi"}
ADMIN = bearer(roles=["tenant_admin"])
DOWN = DependencyUnavailableError("PostgreSQL is gone", dependency="postgres")


def row_of(script: RunScript, **changes: Any) -> RunRow:
    """Return the row of a run as it is now."""
    view = script.run.view()
    row = RunRow(
        tenant_id=view["tenant_id"],
        run_id=view["run_id"],
        agent_id=view["agent_id"],
        status=view["status"],
        created_at=view["created_at"],
        started_at=view.get("started_at"),
        completed_at=view.get("completed_at"),
        labels='{"from": "row"}',
        run_options="{}",
        output=None,
        error=None,
        steps_total=0,
        tool_calls_total=0,
        model_calls_total=0,
        tokens_total=0,
        cost_usd=0.0,
        correlation_id=None,
        forked_from=None,
        sequence=script.run.sequence,
        position=script.run.position,
    )
    return dataclasses.replace(row, **changes)


async def test_create_sends_the_command_and_answers_201(door: Door) -> None:
    door.answer("run.create", {"run": {"run_id": "run_1"}, "position": 1, "existing": False})
    sent = {**bearer(), "X-Correlation-Id": "mine"}
    body = {"input": INPUT, "idempotency_key": "k", "run_options": {"priority": "high"}}
    status, answer = await door.create(body, headers=sent)
    assert (status, answer) == (201, {"run": {"run_id": "run_1"}, "correlation_id": "mine"})
    ((name, auth, command),) = door.sent
    assert (name, auth.tenant_id, auth.principal.principal_id) == ("run.create", TENANT, "usr_a")
    assert (command["agent_id"], command["correlation_id"]) == (AGENT, "mine")
    assert command["request"]["run_options"]["priority"] == "high"
    assert command["request"]["idempotency_key"] == "k"
    assert "auth" not in command["request"]


async def test_a_fork_is_the_callers_own_run(door: Door) -> None:
    door.answer("run.fork", {"run": {"run_id": "run_2"}, "position": 1, "existing": False})
    headers = {**bearer(), "Idempotency-Key": "k"}
    body = {"from_step": 2}
    status, answer, _ = await door.call("POST", "/v1/runs/run_1:fork", json=body, headers=headers)
    assert (status, answer["run"]) == (201, {"run_id": "run_2"})
    ((name, auth, command),) = door.sent
    assert (name, auth.tenant_id) == ("run.fork", TENANT)
    assert (command["run_id"], command["from_step"]) == ("run_1", 2)
    assert command["idempotency_key"].startswith("cmd_")
    door.answer("run.fork", {"run": {"run_id": "run_2"}, "position": 1, "existing": True})
    status, _, _ = await door.call("POST", "/v1/runs/run_1:fork", json=body, headers=headers)
    assert status == 200
    assert door.sent[1][2]["idempotency_key"] == command["idempotency_key"]
    for bad in ({}, {"from_step": 0}, {"from_step": "x"}):
        status, _, _ = await door.call("POST", "/v1/runs/run_1:fork", json=bad, headers=headers)
        assert status == 400


async def test_a_repeat_is_answered_200(door: Door) -> None:
    door.answer("run.create", {"run": {"run_id": "run_1"}, "position": 1, "existing": True})
    status, answer = await door.create({"input": INPUT})
    assert (status, answer["run"]) == (200, {"run_id": "run_1"})


async def test_a_body_s_auth_narrows(door: Door) -> None:
    door.answer("run.create", {"run": {}, "position": 1, "existing": False})
    narrow = {
        "tenant_id": TENANT,
        "principal_id": "usr_forged",
        "scopes": ["runs:create", "runs:read"],
        "session": {"session_id": "s1"},
        "policy_context": {"purpose": "test"},
    }
    status, _ = await door.create({"input": INPUT, "auth": narrow})
    assert status == 201
    auth = door.sent[0][1]
    assert auth.scopes == {"runs:create", "runs:read"}
    assert auth.principal.principal_id == "usr_a", "it never widens and never changes who asks"
    assert auth.session == {"session_id": "s1"}
    assert auth.policy_context.purpose == "test"


async def test_a_policy_context_of_any_length_is_refused(door: Door) -> None:
    for context in ({"purpose": "x" * 257}, {"consent_tags": ["x"] * 33}):
        status, answer = await door.create({"input": INPUT, "auth": {"policy_context": context}})
        assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert not door.sent


@pytest.mark.parametrize(
    ("auth", "status", "code"),
    [
        ({"tenant_id": "tnt_b"}, 400, "tenant_mismatch"),
        ({"scopes": ["runs:create", "audit:read"]}, 403, "forbidden"),
        ({"scopes": ["runs:read"]}, 403, "forbidden"),
        ({"scopes": "runs:read"}, 400, "invalid_request"),
    ],
)
async def test_a_body_s_auth_that_does_not_narrow(
    door: Door, auth: dict[str, Any], status: int, code: str
) -> None:
    found, answer = await door.create({"input": INPUT, "auth": auth})
    assert (found, answer["error"]["code"]) == (status, code)
    assert door.sent == []


async def test_a_read_uses_the_row_only_if_it_is_as_far_as_the_log(door: Door) -> None:
    script = door.script().stage_created()
    await script.write()
    key = (TENANT, script.run_id)
    door.reads.rows[key] = row_of(script)
    _, body, _ = await door.call("GET", f"/v1/runs/{script.run_id}")
    assert body["run"]["labels"] == {"from": "row"}
    await script.stage_steps(1).write()
    _, body, _ = await door.call("GET", f"/v1/runs/{script.run_id}")
    assert (body["run"]["status"], "labels" in body["run"]) == ("running", False)


async def test_a_read_works_without_postgres(door: Door) -> None:
    script = await door.finished()
    door.reads.down = DOWN
    status, body, _ = await door.call("GET", f"/v1/runs/{script.run_id}")
    assert (status, body["run"]["status"]) == (200, "completed")
    status, body, _ = await door.call("GET", "/v1/runs")
    assert (status, body["error"]["details"]) == (503, {"dependency": "postgres"})


async def test_list_passes_filters_and_cursor(door: Door) -> None:
    script = door.script().stage_created()
    await script.write()
    door.reads.rows[TENANT, script.run_id] = row_of(script)
    query = (
        "?status=queued&agent_id=agt_x&created_after=2026-01-01T00:00:00Z"
        "&created_before=2026-01-01T01:00:00%2B01:00&label.b=2&label.a=1&limit=7&cursor=c"
    )
    status, body, _ = await door.call("GET", f"/v1/runs{query}")
    assert status == 200
    assert [run["run_id"] for run in body["runs"]] == [script.run_id]
    assert body["next_cursor"] == "more"
    ((tenant, filters, limit, cursor),) = door.reads.asked
    assert (tenant, limit, cursor) == (TENANT, 7, "c")
    assert filters == RunFilters(
        status="queued",
        agent_id="agt_x",
        created_after=1767225600000,
        created_before=1767225600000,
        labels=(("a", "1"), ("b", "2")),
    )


async def test_wait_returns_at_the_final_event(door: Door) -> None:
    script = door.script().stage_created()
    await script.write()
    waiting = asyncio.create_task(door.call("GET", f"/v1/runs/{script.run_id}/wait"))
    await eventually(lambda: door.gateway.tail._aggregates)
    await script.stage_steps(1).write()
    await script.stage_end().write()
    status, body, _ = await waiting
    assert (status, body["run"]["status"]) == (200, "completed")
    assert not door.gateway.tail._aggregates


async def test_wait_returns_the_run_as_it_is_when_the_time_is_up(door: Door) -> None:
    script = door.script().stage_created()
    await script.write()
    for timeout_ms in (0, 30):
        path = f"/v1/runs/{script.run_id}/wait?timeout_ms={timeout_ms}"
        status, body, _ = await door.call("GET", path)
        assert (status, body["run"]["status"]) == (200, "queued")


async def test_wait_returns_at_once_for_a_finished_run(door: Door) -> None:
    script = await door.finished()
    status, body, _ = await door.call("GET", f"/v1/runs/{script.run_id}/wait")
    assert (status, body["run"]["output"]["text"]) == (200, "hello")
    for bad in ("60001", "-1", "x"):
        path = f"/v1/runs/{script.run_id}/wait?timeout_ms={bad}"
        assert (await door.call("GET", path))[0] == 400


async def test_cancel_answers_once_the_final_event_is_written(door: Door) -> None:
    script = door.script().stage_created().stage_steps(1)
    await script.write()
    script.run.request_cancel("usr_a", None, script.moment())
    position = await script.write()
    door.answer("run.cancel", {"run": script.run.view(), "position": position})
    sent = {**bearer(), "Idempotency-Key": "once"}
    path = f"/v1/runs/{script.run_id}:cancel"
    calling = asyncio.create_task(
        door.call("POST", path, headers=sent, json={"reason": "enough", "x": 1})
    )
    await eventually(lambda: door.sent)
    script.run.finish_cancel(script.moment())
    await script.write()
    status, body, _ = await calling
    assert (status, body["run"]["status"]) == (200, "canceled")
    _, _, command = door.sent[0]
    assert (command["run_id"], command["reason"]) == (script.run_id, "enough")
    assert command["command_id"].startswith("cmd_")


async def test_cancel_that_is_final_at_once_needs_no_event_and_no_body(door: Door) -> None:
    script = await door.finished()
    door.answer("run.cancel", {"run": {"status": "canceled"}, "position": 9})
    status, body, _ = await door.call("POST", f"/v1/runs/{script.run_id}:cancel")
    assert (status, body["run"]) == (200, {"status": "canceled"})
    assert door.sent[0][2]["command_id"] is None


async def test_cancel_of_a_finished_run_and_one_that_does_not_stop(door: Door) -> None:
    error = InvalidStateTransitionError("the run has ended", status="completed")
    door.answer("run.cancel", error)
    status, body, _ = await door.call("POST", "/v1/runs/run_1:cancel")
    assert (status, body["error"]["details"]) == (409, {"status": "completed"})


async def test_cancel_gives_up_in_time() -> None:
    door = Door(cancel_s=0.05)
    await door.start()
    script = door.script().stage_created()
    position = await script.write()
    door.answer("run.cancel", {"run": script.run.view(), "position": position})
    status, body, _ = await door.call("POST", f"/v1/runs/{script.run_id}:cancel")
    assert (status, body["error"]["code"]) == (504, "timeout")
    await door.close()


async def test_agents_are_registered_updated_and_deprecated(door: Door) -> None:
    for name in ("agent.register", "agent.update", "agent.deprecate"):
        door.answer(name, {"agent": {"agent_id": AGENT}, "position": 1})
    definition = {"name": "Echo", "model_ref": "builtin/echo", "tools": ["tool.echo"]}
    headers = {**ADMIN, "Idempotency-Key": "k1"}
    status, body, _ = await door.call(
        "POST", "/v1/agents", json={**definition, "agent_id": AGENT, "more": 1}, headers=headers
    )
    assert (status, body["agent"]) == (201, {"agent_id": AGENT})
    path = f"/v1/agents/{AGENT}"
    status, _, _ = await door.call("PUT", path, json=definition, headers=headers)
    assert status == 200
    status, _, _ = await door.call("POST", f"{path}:deprecate", headers=headers)
    assert status == 200
    register, update, deprecate = (command for _, _, command in door.sent)
    assert register["agent_id"] == update["agent_id"] == deprecate["agent_id"] == AGENT
    assert register["definition"] == update["definition"] == {**definition, "version": "1"}
    assert len({c["command_id"] for c in (register, update, deprecate)}) == 3


async def test_a_command_id_is_bound_to_tenant_principal_route_and_key(door: Door) -> None:
    door.answer("agent.deprecate", {"agent": {}, "position": 1})
    path = f"/v1/agents/{AGENT}:deprecate"
    admin = {"roles": ["tenant_admin"]}
    for claims, key in (
        (admin, "a"),
        (admin, "a"),
        (admin, "b"),
        ({**admin, "sub": "usr_b"}, "a"),
        ({**admin, "tenant_id": "tnt_b"}, "a"),
    ):
        await door.call("POST", path, headers={**bearer(**claims), "Idempotency-Key": key})
    ids = [command["command_id"] for _, _, command in door.sent]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4


async def test_a_user_may_not_write_agents(door: Door) -> None:
    body = {"agent_id": "agt_x", "name": "x", "model_ref": "m"}
    status, answer, _ = await door.call("POST", "/v1/agents", json=body)
    assert (status, answer["error"]["details"]) == (403, {"required_scope": "agents:write"})


async def test_an_agent_is_read_from_the_log(door: Door) -> None:
    await door.registered()
    status, body, _ = await door.call("GET", f"/v1/agents/{AGENT}")
    assert (status, body["agent"]["model_ref"]) == (200, "builtin/echo")
    status, _, _ = await door.call("GET", f"/v1/agents/{AGENT}", headers=bearer(tenant_id="tnt_b"))
    assert status == 404
    status, body, _ = await door.call("GET", "/v1/agents?limit=3&cursor=x")
    assert (status, body["agents"]) == (200, [])
    assert door.reads.asked == [(TENANT, 3, "x")]


async def test_many_wait_at_once(door: Door) -> None:
    script = door.script().stage_created()
    await script.write()
    path = f"/v1/runs/{script.run_id}/wait"
    calls = [asyncio.create_task(door.call("GET", path)) for _ in range(90)]
    listeners = door.gateway.tail._aggregates
    await eventually(lambda: len(listeners.get(script.run.ref, ())) == 90)
    await script.stage_end().write()
    assert {status for status, _, _ in await asyncio.gather(*calls)} == {200}


async def test_dev_headers_serve_without_a_token(door: Door) -> None:
    script = await door.finished()
    dev = {"X-Tenant-Id": TENANT, "X-Principal-Id": "usr_dev"}
    status, _, headers = await door.call("GET", f"/v1/runs/{script.run_id}", headers=dev)
    assert (status, headers["X-Tenant-Id"]) == (200, TENANT)
    both = {"Authorization": f"Bearer {token()}", "X-API-Key": "k"}
    assert (await door.call("GET", "/v1/runs", headers=both))[0] == 400
