"""What policy makes of the tool calls in an answer: for the runtime, and for everybody else."""

import json
from typing import Any

import pytest

from agentos.domain.errors import PolicyBlockedError
from agentos.domain.ports import RequestedToolCall, ToolOffer
from agentos.gateways.model_policy.calls import Caller, Completed
from agentos.gateways.model_policy.records import completed_of, completed_record
from agentos.infra.models.gateway_client import to_answer
from tests.gateways.model_policy.world import World, a_world, caller, chat

TOOLS = [ToolOffer(name, name, "", {"type": "object"}) for name in ("tool.echo", "tool.time")]
ASK = {
    "name": "boss",
    "effect": "require_approval",
    "when": {"direction": ["tool_input"], "tool": ["tool.*"]},
}
HIDE = {
    "name": "mail",
    "effect": "redact",
    "when": {"direction": ["tool_input"], "pii_types": ["email"]},
}
NEVER = {
    "name": "never",
    "effect": "block",
    "when": {"direction": ["tool_input"], "tool": ["tool.time"]},
}
SAID = 'call tool.echo {"to": "ann@example.com", "n": [1]}\ncall tool.time {}'


def runtime(**more: Any) -> Caller:
    """Return the runtime's call for a run."""
    return caller(agent_id="agt_a", run_id="run_1", **more)


async def asked(world: World, who: Caller, *rules: dict[str, Any]) -> Completed:
    await world.policy(*rules)
    async with world.services() as services:
        return await services.pipeline.chat(who, chat(SAID, "builtin/scripted", tools=TOOLS))


def calls_of(completed: Completed) -> dict[str, RequestedToolCall]:
    return {call.tool_id: call for call in completed.answer.tool_calls}


async def test_without_a_rule_the_calls_are_as_the_model_made_them() -> None:
    async with a_world() as world:
        completed = await asked(world, runtime(), HIDE | {"when": {"pii_types": ["iban"]}})
        calls = calls_of(completed)
        assert calls["tool.echo"].arguments == {"to": "ann@example.com", "n": [1]}
        assert [call.policy for call in calls.values()] == [None, None]
        assert all("policy" not in c for c in completed_record(completed)["output"]["tool_calls"])


async def test_the_runtime_is_told_what_a_person_must_approve_and_sees_it_redacted() -> None:
    async with a_world() as world:
        completed = await asked(world, runtime(), ASK, HIDE)
        echo, time = calls_of(completed).values()
        assert echo.policy == {
            "decision": "approval_required",
            "reasons": ["pol_a@1", "approval_required:boss"],
        }
        assert echo.arguments == {"to": "[EMAIL]", "n": [1]}
        assert time.policy is not None, "a call without any text too"
        assert completed.outcome.decision == "redacted"
        (recorded,) = await world.usage()
        assert recorded.status == "ok"
        assert recorded.policy is not None
        assert "approval_required:boss" in recorded.policy.reasons


async def test_the_runtime_is_told_what_is_blocked_and_nothing_of_it_is_kept() -> None:
    async with a_world() as world:
        completed = await asked(world, runtime(), NEVER, HIDE)
        calls = calls_of(completed)
        assert calls["tool.time"].policy == {
            "decision": "blocked",
            "reasons": ["pol_a@1", "block:never"],
        }
        assert calls["tool.time"].arguments == {}
        assert calls["tool.echo"].policy is None
        assert calls["tool.echo"].arguments == {"to": "[EMAIL]", "n": [1]}


async def test_a_block_beats_the_question() -> None:
    async with a_world() as world:
        completed = await asked(world, runtime(), ASK, NEVER)
        said = {tool: call.policy for tool, call in calls_of(completed).items()}
        assert {tool: p["decision"] for tool, p in said.items() if p} == {
            "tool.echo": "approval_required",
            "tool.time": "blocked",
        }


@pytest.mark.parametrize("rule", [ASK, NEVER])
async def test_to_anybody_else_such_an_answer_is_blocked(rule: dict[str, Any]) -> None:
    async with a_world() as world:
        with pytest.raises(PolicyBlockedError) as blocked:
            await asked(world, caller(), rule)
        named = {"boss": "approval_required:boss", "never": "block:never"}[rule["name"]]
        assert blocked.value.details["reasons"] == ["pol_a@1", named]


async def test_what_was_said_is_the_same_for_a_repeat_and_over_the_wire() -> None:
    async with a_world() as world:
        completed = await asked(world, runtime(), ASK, NEVER)
        record = json.loads(json.dumps(completed_record(completed)))
        assert calls_of(completed_of(record)) == calls_of(completed)
        assert {c.tool_id: c for c in to_answer(record).tool_calls} == calls_of(completed)


@pytest.mark.parametrize("rules", [(HIDE,), (ASK, HIDE)], ids=["made at once", "to be approved"])
async def test_a_call_with_a_name_that_cannot_be_hidden_is_not_made(
    rules: tuple[dict[str, Any], ...],
) -> None:
    """Nor is anybody asked to approve it: the tool would see what the rule hides."""
    said = 'call tool.echo {"ann@example.com": 1}'
    async with a_world() as world:
        await world.policy(*rules)
        async with world.services() as services:
            request = chat(said, "builtin/scripted", tools=TOOLS)
            completed = await services.pipeline.chat(runtime(), request)
        (call,) = completed.answer.tool_calls
        assert call.arguments == {}
        assert call.policy is not None
        assert call.policy["decision"] == "blocked"
        assert call.policy["reasons"][-1] == "cannot_redact:tool_calls[0].*"
