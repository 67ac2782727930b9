"""A shadow model gets what policy lets go to it, and nothing else."""

from typing import Any, Final

import pytest

from agentos.domain.ports import ChatMessage, ModelRequest, RequestedToolCall
from agentos.gateways.http.metrics import Metrics
from tests.gateways.conftest import eventually
from tests.gateways.model_policy.world import a_world, caller, chat, embed, new_id, openai_catalog
from tests.infra.models.openai_server import OpenAIServer, embeddings, openai_server

TEXT: Final = "the plan is with ann@example.com"
COUNT: Final = "agentos_model_shadow_requests_total"


def catalog(first: OpenAIServer, second: OpenAIServer, operation: str = "chat") -> dict[str, Any]:
    """Return a route to `a/m` with `b/m` as its shadow."""
    document = openai_catalog(first.base_url, second.base_url)
    for model in document["models"]:
        model["capabilities"] = ["chat", "embed"]
        model["tier"] = {"a": "fast", "b": "premium"}[model["model_id"][0]]
    document["routes"] = [
        {
            "name": "route",
            "operation": operation,
            "chain": [{"targets": [{"model_id": "a/m"}]}],
            "shadow": [{"model_id": "b/m", "percent": 100}],
        }
    ]
    return document


def stop(**when: Any) -> dict[str, Any]:
    return {"name": "stop", "effect": "block", "when": when}


def copies(metrics: Metrics, outcome: str) -> float:
    """Return how many copies came to that."""
    labels = {"backend": "b", "model": "m", "outcome": outcome}
    return metrics.registry.get_sample_value(COUNT, labels) or 0.0


def after_a_tool() -> ModelRequest:
    call = RequestedToolCall("call_1", "f", "f", {})
    messages = [
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "", tool_calls=(call,)),
        ChatMessage("tool", TEXT, "call_1"),
    ]
    return ModelRequest(new_id("req"), "route", messages)


@pytest.mark.parametrize(
    "rule",
    [
        stop(model=["b/m"]),
        stop(backend=["b"]),
        stop(tier=["premium"]),
        stop(region=["eu"], backend=["b"]),
        stop(backend=["b"], pii_types=["email"]),
        stop(backend=["b"], direction=["input"]),
        {"name": "ask", "effect": "require_approval", "when": {"backend": ["b"]}},
    ],
    ids=["model", "backend", "tier", "region", "content", "direction", "approval"],
)
async def test_what_may_not_go_to_the_shadow_is_not_copied(rule: dict[str, Any]) -> None:
    metrics = Metrics()
    async with a_world() as world, openai_server() as first, openai_server() as shadow:
        await world.catalog(**catalog(first, shadow))
        await world.policy(rule)
        async with world.services(metrics) as services:
            who = caller(context={"region": "eu"})
            done = await services.pipeline.chat(who, chat(TEXT, "route"))
            assert done.outcome.decision == "allowed"  # of the call itself
            await eventually(lambda: copies(metrics, "policy_blocked") == 1)
        assert first.bodies
        assert not shadow.bodies


async def test_a_tool_s_answer_may_not_go_there_either() -> None:
    metrics = Metrics()
    async with a_world() as world, openai_server() as first, openai_server() as shadow:
        await world.catalog(**catalog(first, shadow))
        await world.policy(stop(backend=["b"], direction=["tool_output"]))
        async with world.services(metrics) as services:
            await services.pipeline.chat(caller(), after_a_tool())
            assert copies(metrics, "policy_blocked") == 1
            await services.pipeline.chat(caller(), chat("no tool", "route"))
            await eventually(lambda: copies(metrics, "ok") == 1)
        assert [len(body["messages"]) for body in shadow.bodies] == [1]


async def test_the_shadow_s_copy_is_redacted_by_its_own_facts() -> None:
    rule = {"name": "hide", "effect": "redact", "when": {"backend": ["b"], "pii_types": ["email"]}}
    metrics = Metrics()
    async with a_world() as world, openai_server() as first, openai_server() as shadow:
        await world.catalog(**catalog(first, shadow))
        await world.policy(rule)
        async with world.services(metrics) as services:
            done = await services.pipeline.chat(caller(), chat(TEXT, "route"))
            await eventually(lambda: copies(metrics, "ok") == 1)
            assert done.outcome.redactions == ()
            usage = (await world.written(1))[0].policy
            assert usage is not None
            assert usage.findings == {}
        assert first.bodies[0]["messages"][0]["content"] == TEXT
        assert shadow.bodies[0]["messages"][0]["content"] == "the plan is with [EMAIL]"


async def test_what_only_the_first_model_may_not_have_the_shadow_may() -> None:
    rule = {"name": "hide", "effect": "redact", "when": {"backend": ["a"], "pii_types": ["email"]}}
    metrics = Metrics()
    async with a_world() as world, openai_server() as first, openai_server() as shadow:
        await world.catalog(**catalog(first, shadow))
        await world.policy(rule)
        async with world.services(metrics) as services:
            await services.pipeline.chat(caller(), chat(TEXT, "route"))
            await eventually(lambda: copies(metrics, "ok") == 1)
        assert "[EMAIL]" in first.bodies[0]["messages"][0]["content"]
        assert shadow.bodies[0]["messages"][0]["content"] == TEXT


async def test_texts_to_embed_pass_it_too() -> None:
    metrics = Metrics()
    vectors = embeddings([[0.5, 0.25]])
    async with (
        a_world() as world,
        openai_server(vectors) as first,
        openai_server(vectors) as shadow,
    ):
        await world.catalog(**catalog(first, shadow, "embed"))
        await world.policy(stop(backend=["b"], pii_types=["email"]))
        async with world.services(metrics) as services:
            for text in (TEXT, "nobody's"):
                await services.pipeline.embed(caller(), embed(text, model="route"))
            await eventually(lambda: copies(metrics, "ok") == 1)
        assert copies(metrics, "policy_blocked") == 1
        assert len(shadow.bodies) == 1
        assert TEXT not in str(shadow.bodies)
