"""`agentos usage` and `agentos explain`, as a user reads them."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agentos.cli.main import app
from agentos.domain.usage.usage import (
    AttemptMade,
    BudgetHeld,
    CallError,
    PolicySaid,
    PriceUsed,
    RedactedSpan,
    RouteChosen,
)
from tests.gateways.conftest import TENANT, Door, token
from tests.projections.usage.test_usage_projections import call

Cli = Callable[..., Awaitable[Result]]


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A gateway."""
    opened = Door()
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
def cli(door: Door, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """A remote client's terminal."""
    for name in list(os.environ):
        if name.startswith("AGENTOS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AGENTOS_TOKEN", token())
    monkeypatch.setenv("AGENTOS_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)

    async def run(*arguments: str) -> Result:
        given = [*arguments, "--url", door.urls[0]]
        return await asyncio.to_thread(CliRunner().invoke, app, given)

    return run


def put(door: Door, **more: Any) -> None:
    """Let the read model have a call `req_1`."""
    there = {"principal_id": "usr_x", "ended_at": "2026-11-20T10:00:00.000Z"}
    one = call("req_1", **more).model_dump(mode="json")
    door.reads.model_calls[TENANT, "req_1"] = {**one, **there}


async def test_usage_is_a_table_or_json(cli: Cli, door: Door) -> None:
    door.reads.rows[TENANT, "run_1"] = type("Row", (), {"agent_id": "agt_a"})()
    result = await cli("usage", "--window", "month", "--by", "agent_id")
    assert result.exit_code == 0, result.output
    assert "0.001500" in result.stdout
    asked = door.reads.asked[-1][1]
    assert (asked.window, asked.group_by) == ("month", ("agent_id",))
    as_json = await cli("usage", "--json")
    rows = json.loads(as_json.stdout)["usage"]
    assert [row["agent_id"] for row in rows] == ["agt_a", "agt_a"]  # both pages


async def test_explain_tells_everything_that_decided(cli: Cli, door: Door) -> None:
    span = RedactedSpan(type="email", field="messages[0].content", start=4, end=17)
    put(
        door,
        agent_id="agt_a",
        run_id="run_1",
        streamed=True,
        latency_ms=42,
        policy=PolicySaid(
            decision="redacted",
            reasons=("pol_default@3: mask_email",),
            redactions=(span,),
            findings={"input": {"email": 1}, "output": {}},
        ),
        price=PriceUsed(catalog_version=2, input_per_million=1.5, output_per_million=6.0),
        route=RouteChosen(
            name="tier:fast",
            catalog_version=2,
            attempts=(
                AttemptMade(backend="dead", model="m", outcome="timeout", latency_ms=30),
                AttemptMade(backend="openai", model="gpt-x", outcome="ok", latency_ms=9),
            ),
            fallback_used=True,
        ),
        budget=BudgetHeld(reserved={"tokens": 4108}, settled={"tokens": 15}),
        correlation_id="corr_1",
    )
    result = await cli("explain", "req_1")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "call      req_1, answered, 2026-11-20T10:00:00.000Z",
        "asked     chat of tier:fast by usr_x",
        "          for agt_a, run_1",
        "policy    redacted",
        "          because pol_default@3: mask_email",
        "          found in input: 1 email",
        "          found in output: nothing",
        "redacted  email in messages[0].content, 4 to 17",
        "route     tier:fast (catalog 2) to openai/gpt-x, a fallback",
        "          attempt 1: dead/m, timeout, 30 ms",
        "          attempt 2: openai/gpt-x, ok, 9 ms",
        "usage     10 in, 5 out, 42 ms, streamed",
        "cost      $0.000123 at $1.5 in, $6.0 out a million tokens (catalog 2)",
        "budget    tokens: 4108 reserved, 15 counted",
        "trace     correlation corr_1",
    ]


async def test_explain_of_a_refused_call_and_of_none(cli: Cli, door: Door) -> None:
    error = CallError(code="quota_exceeded", message="the budget is spent")
    put(door, status="refused", backend="", model="", cost_usd=0, error=error)
    lines = (await cli("explain", "req_1")).stdout.splitlines()
    assert lines[0].startswith("call      req_1, refused before it began")
    assert "error     quota_exceeded: the budget is spent" in lines
    assert "policy    not asked" in lines
    assert "route     none was taken" in lines
    missing = await cli("explain", "req_2")
    assert (missing.exit_code, "not_found" in missing.output) == (1, True)
    as_json = await cli("explain", "req_1", "--json")
    assert json.loads(as_json.stdout)["model_call"]["status"] == "refused"


async def test_an_error_is_told_once(cli: Cli) -> None:
    result = await cli("usage", "--window", "year")
    assert result.exit_code == 1
    assert result.stderr == "error: invalid_request: query.window: not one of hour, day, month\n"
