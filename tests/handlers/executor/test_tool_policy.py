"""A tool's output passes its tenant's policy before it is written down; without rules, freely."""

import asyncio
from typing import Any

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.log import Recorded
from agentos.domain.policy.compiled import compile_policy
from agentos.domain.policy.document import PolicyDocument
from agentos.domain.policy.facts import Facts
from agentos.domain.policy.policy import Policy, policy_ref
from agentos.domain.ports import CallOrigin, ToolCall
from agentos.domain.subjects import StreamRef
from agentos.handlers.executor.calls import Outside, call_tool
from agentos.handlers.executor.gate import ToolGate
from agentos.handlers.executor.tool_policy import governed_output
from agentos.infra.memory.bus import MemoryBus
from agentos.infra.memory.log import MemoryLog
from tests.domain.given import moment
from tests.handlers.executor.test_gate import change
from tests.handlers.executor.world import Models, Tool, Tools
from tests.handlers.node import Node, a_node, caller
from tests.handlers.virtual import virtual_time

HIDE = {
    "name": "mail",
    "effect": "redact",
    "when": {"direction": ["tool_output"], "tool": ["tool.a"], "pii_types": ["email"]},
}
NO_CARDS = {
    "name": "cards",
    "effect": "block",
    "when": {"direction": ["tool_output"], "pii_types": ["credit_card"]},
}
OTHER = {"name": "in", "effect": "redact", "when": {"direction": ["input"], "pii_types": ["email"]}}
OUTPUT = {"to": ["ann@example.com", 1, None], "x": True}


class CountingLog(MemoryLog):
    """A log that says what was read of it, and may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[StreamRef] = []
        self.away = 0

    async def read(self, ref: StreamRef, *, after: int = 0) -> list[Recorded]:
        self.reads.append(ref)
        if self.away and ref.kind == "policy":
            self.away -= 1
            raise DependencyUnavailableError("the log is away", dependency="nats")
        return await super().read(ref, after=after)


async def publish(node: Node, *rules: dict[str, Any]) -> None:
    """Let the tenant's policy have these rules."""
    ref = policy_ref("tnt_a", "pol_default")
    policy = Policy(ref).fold(await MemoryLog.read(node.log, ref))
    document = PolicyDocument.model_validate({"name": "p", "rules": rules})
    events = policy.publish(document, True, moment(new_id=node.new_id))
    await node.write(ref, events, policy.position)


class Caller:
    """An executor's way to its tools."""

    def __init__(self, node: Node, **outputs: Any) -> None:
        self.tools = Tools({f"tool.{name}": Tool(output=said) for name, said in outputs.items()})
        gate = ToolGate(node.log, MemoryBus({}), node.clock)
        self.outside = Outside(Models(), self.tools, node.clock, node.new_id, "stk", gate)
        self.new_id = node.new_id

    async def call(self, tool: str = "tool.a", **labels: str) -> Any:
        made = ToolCall(self.new_id("tcall"), tool, {}, "run_1", 30_000)
        origin = CallOrigin("agt_a", "run_1", labels)
        return await call_tool(self.outside, caller(), made, was_begun=False, origin=origin)


@virtual_time
async def test_what_a_rule_redacts_is_neither_kept_nor_read() -> None:
    async with a_node() as node:
        await node.tenant()
        await publish(node, HIDE)
        tools = Caller(node, a=OUTPUT, b=OUTPUT)
        said = await tools.call()
        assert (said.status, said.output) == ("ok", {"to": ["[EMAIL]", 1, None], "x": True})
        assert (await tools.call("tool.b")).output == OUTPUT, "a rule about another tool"


@virtual_time
async def test_what_a_rule_blocks_is_an_error_for_the_model_and_nothing_of_it_is_kept() -> None:
    async with a_node() as node:
        await node.tenant()
        await publish(node, NO_CARDS, HIDE)
        said = await Caller(node, a={"n": 4111111111111111}).call()
        assert (said.status, said.output, said.error.code) == ("error", None, "policy_blocked")
        assert said.error.details["reasons"] == ["pol_default@2", "block:cards"]
        assert "4111" not in said.model_dump_json()


@virtual_time
async def test_a_name_that_cannot_be_hidden_blocks_and_so_does_a_question_to_nobody() -> None:
    async with a_node() as node:
        await node.tenant()
        await publish(node, HIDE)
        said = await Caller(node, a={"ann@example.com": 1}).call()
        assert said.error.details["reasons"][-1] == "cannot_redact:output.*"
        ask = {"name": "boss", "effect": "require_approval", "when": {"labels": {"env": ["prod"]}}}
        await publish(node, ask)
        tools = Caller(node, a="fine")
        assert (await tools.call(env="test")).output == "fine"
        assert (await tools.call(env="prod")).error.details["reasons"][-1] == (
            "approval_required:boss"
        )


@virtual_time
async def test_a_new_policy_holds_within_a_second_and_without_one_nothing_passes() -> None:
    async with a_node() as node:
        await node.tenant()
        tools = Caller(node, a=OUTPUT)
        assert (await tools.call()).output == OUTPUT
        await publish(node, HIDE)
        await asyncio.sleep(1.1)
        assert (await tools.call()).output["to"][0] == "[EMAIL]"
        await publish(node, OTHER)
        await asyncio.sleep(1.1)
        assert (await tools.call()).output == OUTPUT
        await change(node, default_policy_id="pol_none")
        await asyncio.sleep(1.1)
        said = await tools.call()
        assert said.error.details["reasons"] == ["policy_missing:pol_none"]


@virtual_time
async def test_a_policy_without_a_rule_for_it_costs_no_question_a_call() -> None:
    async with a_node(log := CountingLog()) as node:
        await node.tenant()
        await publish(node, OTHER)
        gate = ToolGate(log, MemoryBus({}), node.clock)
        assert await gate.output_policy("tnt_a") is None
        log.reads.clear()
        for _ in range(1000):
            assert await gate.output_policy("tnt_a") is None
        assert log.reads == []


@virtual_time
async def test_a_log_that_is_away_is_waited_for_and_the_call_is_not_made_again() -> None:
    async with a_node(log := CountingLog()) as node:
        await node.tenant()
        await publish(node, HIDE)
        log.away = 3
        tools = Caller(node, a=OUTPUT)
        assert (await tools.call()).output["to"][0] == "[EMAIL]"
        assert list(tools.tools.times().values()) == [1]


async def test_a_long_output_is_looked_at_beside_the_loop() -> None:
    document = PolicyDocument.model_validate({"name": "p", "rules": [HIDE]})
    policy = compile_policy("pol_a", "1", document)
    text = "x" * 70_000 + " ann@example.com"
    said = await governed_output(policy, [text], Facts(direction="tool_output", tool="tool.a"))
    assert said[0].endswith(" [EMAIL]")
