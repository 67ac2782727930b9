"""Every metric of the contract, on a real node, with figures that moved."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.infra.embedded import reserved_port
from tests.journeys.mini_node import DEV_HEADERS, MiniNode

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]
Labels = dict[str, str]
NAMES = ("gateway", "handlers", "executor", "projector")
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"

# The contract's list (operations.md, "Signals"): name, labels, and an example that must have moved.
CONTRACT: Final[dict[str, tuple[frozenset[str], Labels]]] = {
    "agentos_http_requests_total": (
        frozenset({"service", "route", "method", "code"}),
        {"route": "/v1/agents/{agent_id}/runs", "method": "POST", "code": "201"},
    ),
    "agentos_http_request_duration_seconds": (frozenset({"service", "route", "method"}), {}),
    "agentos_runs_total": (frozenset({"status"}), {"status": "completed"}),
    "agentos_run_duration_seconds": (frozenset(), {}),
    "agentos_step_duration_seconds": (frozenset({"kind"}), {"kind": "tool"}),
    "agentos_tool_duration_seconds": (frozenset({"tool"}), {"tool": "tool.calculate"}),
    "agentos_tool_errors_total": (frozenset(), {}),
    "agentos_runs_active": (frozenset(), {}),
    "agentos_queue_depth": (frozenset({"priority"}), {"priority": "normal"}),
    "agentos_log_append_seconds": (frozenset(), {}),
    "agentos_projection_lag_events": (frozenset({"projection"}), {"projection": "runs"}),
    "agentos_sse_streams": (frozenset(), {}),
    "agentos_model_requests_total": (
        frozenset({"backend", "model", "outcome"}),
        {"backend": "builtin", "model": "echo", "outcome": "ok"},
    ),
    "agentos_model_tokens_total": (frozenset({"direction"}), {"direction": "input"}),
    "agentos_model_cost_usd_total": (frozenset(), {}),
    "agentos_model_overhead_seconds": (frozenset(), {}),
    "agentos_policy_decisions_total": (frozenset({"decision"}), {"decision": "allowed"}),
    "agentos_backend_up": (frozenset({"backend"}), {"backend": "builtin"}),
    "agentos_quota_denied_total": (frozenset({"kind"}), {}),
    "agentos_auth_failures_total": (frozenset({"reason"}), {}),
    "agentos_federation_forward_failures_total": (
        frozenset({"reason"}),
        {"reason": "forward_failed"},
    ),
    "agentos_top_tenant_runs": (frozenset({"rank"}), {"rank": "1"}),
    "gen_ai_client_token_usage": (
        frozenset(
            {
                "gen_ai_operation_name",
                "gen_ai_provider_name",
                "gen_ai_request_model",
                "gen_ai_response_model",
                "gen_ai_token_type",
            }
        ),
        {"gen_ai_request_model": "builtin/echo", "gen_ai_token_type": "output"},
    ),
    "gen_ai_client_operation_duration_seconds": (
        frozenset(
            {
                "gen_ai_operation_name",
                "gen_ai_provider_name",
                "gen_ai_request_model",
                "gen_ai_response_model",
                "error_type",
            }
        ),
        {"gen_ai_operation_name": "chat", "gen_ai_response_model": "echo", "error_type": ""},
    ),
}
MAY_BE_ZERO = frozenset({"agentos_projection_lag_events", "agentos_model_cost_usd_total"})


class Scrape:
    """What `/metrics` said once: values by sample name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def values(self, name: str, like: Labels) -> list[float]:
        """Return the values of a metric (a histogram's counts) with such labels."""
        names = {name, f"{name}_count"}
        return [
            s.value for s in self.samples if s.name in names and like.items() <= s.labels.items()
        ]

    def labels(self, name: str) -> set[frozenset[str]]:
        """Return the sets of label names that a metric has."""
        names = {name, f"{name}_count"}
        return {frozenset(s.labels) for s in self.samples if s.name in names}


class Measured(MiniNode):
    """A node with a peer that nobody reaches."""

    def __init__(self) -> None:
        super().__init__()
        peers = self.directory / "peers.json"
        url = f"http://127.0.0.1:{reserved_port()}"
        entry = {
            "stack_id": "stk_gone",
            "endpoints": {
                "agent-orchestrator_base_url": url,
                "model-policy_base_url": url,
                "federation_base_url": url,
            },
        }
        peers.write_text(json.dumps({"peers": [entry]}))
        self.peers = str(peers)

    def environment(self) -> dict[str, str]:
        """Return the settings of this node."""
        return super().environment() | {
            "AGENTOS_PEERS_FILE": self.peers,
            "AGENTOS_FED_FORWARD_BASE_BACKOFF_MS": "10",
        }

    async def scrape(self, door: int = 0) -> Scrape:
        """Return the metrics as a door shows them."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.ports[door]}/metrics") as answer,
        ):
            assert answer.status == 200
            return Scrape(await answer.text())

    async def until(self, holds: Callable[[Scrape], bool], within: float = 60.0) -> Scrape:
        """Wait until a scrape satisfies a condition: figures of other processes come by and by."""
        found = await self.scrape()
        try:
            async with asyncio.timeout(within):
                while not holds(found):
                    await asyncio.sleep(0.2)
                    found = await self.scrape()
        except TimeoutError:
            raise AssertionError(found.text) from None
        return found

    async def ask(self, door: int, path: str, body: Any, **headers: str) -> int:
        """Send a request to a door; returns the status."""
        url = f"http://127.0.0.1:{self.ports[door]}{path}"
        async with (
            aiohttp.ClientSession(headers=DEV_HEADERS | headers) as session,
            session.post(url, json=body) as answer,
        ):
            await answer.read()
            return answer.status


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def node() -> AsyncIterator[Measured]:
    """A node on which something of everything happened; one run sleeps, one stream is open."""
    opened = Measured()
    await opened.open(*NAMES)
    await opened.ready()
    status, body = await opened.post_run("calculate 6 * 7")
    assert status == 201
    await opened.finished(body["run"]["run_id"])
    status, body = await opened.post_run("calculate 6 * (")
    await opened.finished(body["run"]["run_id"])
    chat = {"model": "builtin/echo", "messages": [{"role": "user", "content": "hi"}]}
    assert await opened.ask(1, "/v1/chat/completions", chat) == 200
    assert await opened.ask(1, "/v1/chat/completions", chat | {"model": "made/up by me"}) == 400
    assert await opened.ask(0, "/v1/agents/agt_demo/runs", {}, Authorization="Bearer no") == 401
    run = {"agent_id": "agt_demo", "input": {"type": "text", "text": "hello"}}
    forward = {"forward": {"target_selector": {"stack_id": "stk_gone"}, "run_request": run}}
    assert await opened.ask(2, "/v1/federation/runs:forward", forward) == 502
    yield opened
    await opened.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def moved(node: Measured) -> Scrape:
    """The metrics with one run at work, one stream open, and one run too many refused."""
    limits = {"quotas": {"runs": {"max_concurrent_runs": 2}}}
    url = f"http://127.0.0.1:{node.ports[0]}/v1/admin/tenants/tnt_demo"
    admin = {"X-Scopes": "tenants:admin platform:admin"}
    async with (
        aiohttp.ClientSession(headers=DEV_HEADERS | admin) as session,
        session.patch(url, json=limits) as answer,
    ):
        assert answer.status == 200, await answer.text()
    runs = [await node.post_run("sleep 60000") for _ in range(3)]
    assert sorted(status for status, _ in runs) == [201, 201, 429]
    run_id = next(body["run"]["run_id"] for status, body in runs if status == 201)
    async with node.http.get(f"/v1/runs/{run_id}/events") as stream:
        assert stream.status == 200
        await stream.content.readline()
        return await node.until(lambda scrape: not missing(scrape))


def missing(scrape: Scrape) -> list[str]:
    """Return the names that are not there, or have not moved."""
    found = []
    for name, (_, like) in CONTRACT.items():
        values = scrape.values(name, like)
        if not values or (max(values) <= 0 and name not in MAY_BE_ZERO | {"agentos_queue_depth"}):
            found.append(name)
    return found


@pytest.mark.parametrize("name", CONTRACT)
async def test_every_metric_of_the_contract_is_there(moved: Scrape, name: str) -> None:
    labels, like = CONTRACT[name]
    assert name not in missing(moved)
    assert moved.labels(name) == {labels}
    assert moved.values(name, like)


async def test_no_label_holds_a_tenant_an_id_or_what_a_caller_made_up(moved: Scrape) -> None:
    values = {value for sample in moved.samples for value in sample.labels.values()}
    bad = re.compile(r"tnt_|run_[0-9A-Z]{26}|usr_|req_|agt_|made/up")
    assert [value for value in values if bad.search(value)] == []


async def test_all_doors_show_the_same(moved: Scrape, node: Measured) -> None:
    names = {sample.name for sample in moved.samples}
    for door in (1, 2):
        there = {sample.name for sample in (await node.scrape(door)).samples}
        assert names <= there


async def test_the_page_has_every_name(moved: Scrape) -> None:
    """What a node shows is in the table of docs/operations.md, and the other way round."""
    page = OPERATIONS.read_text()
    listed = set(re.findall(r"`((?:agentos|gen_ai)_[a-z_]+)`", page.split("## Signals")[1]))
    shown = {
        re.sub(r"_(bucket|count|sum)$", "", sample.name)
        for sample in moved.samples
        if not sample.name.endswith("_created")
    }
    assert set(CONTRACT) <= listed
    assert {n for n in shown if n not in listed} == set()


async def test_a_projector_that_died_falls_behind(node: Measured, moved: Scrape) -> None:
    node.kill("projector")
    chat = {"model": "builtin/echo", "messages": [{"role": "user", "content": "hi"}]}
    for _ in range(5):  # whatever becomes of a call, the log has it
        await node.ask(1, "/v1/chat/completions", chat)
    found = await node.until(
        lambda s: min(s.values("agentos_projection_lag_events", {}) or [0]) > 0
    )
    names = {s.labels["projection"] for s in found.samples if "projection_lag" in s.name}
    assert {"runs", "usage_by_window", "model_calls"} <= names
    node.start("projector")
    await node.until(
        lambda s: max(s.values("agentos_projection_lag_events", {}) or [1]) == 0,
        within=120.0,
    )
