"""Names and numbers leave the node, too: in schemas, in arguments, as ids. Policy sees them."""

import json
from typing import Any, Final

import pytest

from agentos.domain.errors import PolicyBlockedError
from agentos.domain.ports import ChatMessage, ModelRequest, RequestedToolCall, ToolOffer
from tests.gateways.model_policy.world import (
    World,
    a_world,
    caller,
    chat,
    new_id,
    openai_catalog,
)
from tests.infra.models.openai_server import OPENAI, OpenAIServer, openai_server

EMAIL: Final = "ann@example.com"
CARD: Final = 4111111111111111
BLOCK: Final = {
    "name": "no_falcon",
    "effect": "block",
    "when": {"content_patterns": [{"name": "falcon", "regex": "falcon"}]},
}
HIDE: Final = {"name": "hide", "effect": "redact", "when": {"pii_types": ["email", "credit_card"]}}


def offer(name: str = "f", **properties: Any) -> ToolOffer:
    return ToolOffer(name, name, "", {"type": "object", "properties": properties})


def nested(name: str) -> dict[str, Any]:
    """Return a schema in which `name` is deep down."""
    deep = {"type": "object", "properties": {name: {"type": "string"}}, "required": ["x"]}
    return {"type": "array", "items": {"anyOf": [{"type": "null"}, deep]}}


def after(call: RequestedToolCall, model: str = "a/m") -> ModelRequest:
    """Return a conversation in which that call was made."""
    messages = [
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "", tool_calls=(call,)),
        ChatMessage("tool", "done", call.tool_call_id),
    ]
    return ModelRequest(new_id("req"), model, messages, tools=[offer()])


async def blocked(world: World, request: ModelRequest) -> PolicyBlockedError:
    """Make a call that policy does not let through."""
    async with world.services() as services:
        with pytest.raises(PolicyBlockedError) as raised:
            await services.pipeline.chat(caller(), request)
    return raised.value


async def with_upstream(world: World, upstream: OpenAIServer) -> None:
    await world.catalog(**openai_catalog(upstream.base_url))


@pytest.mark.parametrize(
    "request_",
    [
        chat("hi", "a/m", tools=[offer(falcon={"type": "string"})]),
        chat("hi", "a/m", tools=[offer(rows=nested("my falcon"))]),
        chat("hi", "a/m", tools=[offer("to_falcon")]),
        chat("hi", "a/m", tools=[offer(x={"description": "for falcon"})]),
        chat("hi", "a/m", response_format={"json_schema": {"schema": nested("falcon")}}),
        chat("hi", "a/m", stop=("falcon",)),
        after(RequestedToolCall("call_1", "f", "f", {"a": [{"falcon": 1}]})),
        after(RequestedToolCall("call_falcon", "f", "f", {})),
        after(RequestedToolCall("call_1", "falcon", "falcon", {})),
        chat("hi", "a/m", tools=[ToolOffer("tool.falcon", "a name", "", {"type": "object"})]),
        after(RequestedToolCall("call_1", "tool.falcon", "a name", {})),
    ],
    ids=[
        "property",
        "deep",
        "tool",
        "description",
        "format",
        "stop",
        "argument",
        "id",
        "called",
        "offered id",
        "called id",
    ],
)
async def test_a_rule_that_blocks_sees_names(request_: ModelRequest) -> None:
    async with a_world() as world, openai_server() as upstream:
        await with_upstream(world, upstream)
        await world.policy(BLOCK)
        error = await blocked(world, request_)
        assert "block:no_falcon" in error.details["reasons"]
        assert not upstream.bodies


@pytest.mark.parametrize(
    ("request_", "place"),
    [
        (chat("hi", "a/m", tools=[ToolOffer("f", "f", "", nested(EMAIL))]), "tools[0].*"),
        (chat("hi", "a/m", response_format=nested(EMAIL)), "response_format.*"),
        (
            after(RequestedToolCall("call_1", "f", "f", {"to": {EMAIL: True}})),
            "messages[1].tool_calls[0].*",
        ),
    ],
    ids=["schema", "format", "arguments"],
)
async def test_a_name_that_would_have_to_be_hidden_stops_the_call(
    request_: ModelRequest, place: str
) -> None:
    """The tool knows its arguments by their names: half a name is none."""
    async with a_world() as world, openai_server() as upstream:
        await with_upstream(world, upstream)
        error = await blocked(world, request_)
        reasons = error.details["reasons"]
        assert reasons[-2:] == ["redact:personal_data_and_secrets", f"cannot_redact:{place}"]
        assert error.details["policy_outcome"]["redactions"] == []
        assert not upstream.bodies
        (usage,) = await world.written(1)
        assert EMAIL not in error.message + json.dumps(error.details) + usage.model_dump_json()


async def test_a_number_is_hidden_like_a_text() -> None:
    call = RequestedToolCall("call_1", "f", "f", {"card": CARD, "cents": 4200, "share": 0.5})
    async with a_world() as world, openai_server() as upstream:
        await with_upstream(world, upstream)
        async with world.services() as services:
            done = await services.pipeline.chat(caller(), after(call))
        sent = json.loads(
            upstream.bodies[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]
        )
        assert sent == {"card": "[CREDIT_CARD]", "cents": 4200, "share": 0.5}
        (redaction,) = done.outcome.redactions
        assert redaction["field"] == "messages[1].tool_calls[0].arguments.card"


async def test_an_id_that_is_hidden_still_joins_call_and_result() -> None:
    async with a_world() as world, openai_server() as upstream:
        await with_upstream(world, upstream)
        async with world.services() as services:
            await services.pipeline.chat(caller(), after(RequestedToolCall(EMAIL, "f", "f", {})))
        _, asked, answered = upstream.bodies[0]["messages"]
        assert asked["tool_calls"][0]["id"] == answered["tool_call_id"]
        assert EMAIL not in json.dumps(upstream.bodies)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_name_in_an_answer_stops_it(is_streamed: bool) -> None:
    seen: list[str] = []
    calls = OPENAI.calls([("f", json.dumps({EMAIL: 1}))])
    async with a_world() as world, openai_server(calls) as upstream:
        await with_upstream(world, upstream)
        await world.policy(HIDE)
        async with world.services() as services:
            request = chat("hi", "a/m", tools=[offer()])
            with pytest.raises(PolicyBlockedError) as raised:
                await services.pipeline.chat(
                    caller(), request, seen.append if is_streamed else None
                )
        assert raised.value.details["reasons"][-1] == "cannot_redact:tool_calls[0].*"
        assert not seen
        (usage,) = await world.written(1)
        assert usage.status == "blocked"
        assert usage.usage.total_tokens == 11


async def test_a_call_without_arguments_is_looked_at() -> None:
    rule = {"name": "no_f", "effect": "block", "when": {"direction": ["tool_input"], "tool": ["f"]}}
    async with a_world() as world, openai_server(OPENAI.calls([("f", "{}")])) as upstream:
        await with_upstream(world, upstream)
        await world.policy(rule)
        error = await blocked(world, chat("hi", "a/m", tools=[offer()]))
        assert "block:no_f" in error.details["reasons"]
