"""`agentos run approvals|approve|reject`, as a person reads and uses them."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentos.cli.main import app
from tests.federation.node import FedNode
from tests.gateways.conftest import token

Cli = Callable[..., Awaitable[Result]]


@pytest.fixture
async def node() -> AsyncIterator[FedNode]:
    """A node with its handlers."""
    opened = await FedNode("stk_a").open()
    yield opened
    await opened.close()


@pytest.fixture
def cli(node: FedNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """An approver's terminal."""
    for name in list(os.environ):
        if name.startswith("AGENTOS_"):
            monkeypatch.delenv(name)
    claims = {"roles": ["tenant_admin"], "scope": None, "sub": "usr_boss"}
    monkeypatch.setenv("AGENTOS_TOKEN", token(**claims))
    monkeypatch.setenv("AGENTOS_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)

    async def run(*arguments: str) -> Result:
        given = ["run", *arguments, "--url", node.door.urls[0]]
        return await asyncio.to_thread(CliRunner().invoke, app, given)

    return run


async def a_run(node: FedNode) -> str:
    body = {"input": {"type": "text", "text": "hi"}}
    _, answer = await node.call("POST", "/v1/agents/agt_a/runs", door=0, json=body)
    run_id: str = answer["run"]["run_id"]
    return run_id


async def test_what_waits_is_listed_with_its_arguments_and_approved(
    node: FedNode, cli: Cli
) -> None:
    run_id = await a_run(node)
    approval_id = await node.ask(run_id)
    result = await cli("approvals", run_id)
    assert result.exit_code == 0, result.output
    assert approval_id in result.output
    assert "asks to call tool.echo with:" in result.output
    result = await cli("approve", run_id, "--reason", "fine")
    assert result.exit_code == 0, result.output
    assert result.output == f"{approval_id} is approved: tool.echo\n"
    result = await cli("approvals", run_id, "--json")
    (shown,) = json.loads(result.output)["approvals"]
    assert (shown["status"], shown["by"], shown["comment"]) == ("approved", "usr_boss", "fine")


async def test_what_was_decided_stays(node: FedNode, cli: Cli) -> None:
    run_id = await a_run(node)
    approval_id = await node.ask(run_id)
    result = await cli("reject", run_id, approval_id, "--json")
    assert json.loads(result.output)["approval"]["status"] == "rejected"
    assert (await cli("reject", run_id, approval_id)).exit_code == 0
    result = await cli("approve", run_id, approval_id)
    assert result.exit_code == 1
    assert "invalid_state_transition" in result.output
    result = await cli("approve", run_id)
    assert result.exit_code == 2
    assert "it waits for none" in result.output


async def test_a_run_that_is_not_there(cli: Cli) -> None:
    result = await cli("approvals", "run_01JD7K3V9YQ4M8R2T6W0X5Z1ZZ")
    assert result.exit_code == 1
    assert "not_found" in result.output
