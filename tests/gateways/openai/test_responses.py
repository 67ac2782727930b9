"""Responses, asked by the official client."""

import asyncio
from typing import Any

import openai as sdk
import pytest
from openai import APIError, AsyncOpenAI
from openai.types.responses import FunctionToolParam, ResponseStreamEvent
from pydantic import BaseModel

from agentos.domain.ports import ChatMessage, RequestedToolCall, ToolOffer
from tests.gateways.openai.conftest import ModelDoor

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "weather",
    "description": "Tells it",
    "parameters": SCHEMA,
    "strict": False,
}
PARIS = 'call weather {"city": "Paris"}'


async def test_a_whole_answer(models: ModelDoor, openai: AsyncOpenAI) -> None:
    answer = await openai.responses.create(
        model="tier:fast", input="hello there", instructions="be kind", metadata={"a": "b"}
    )
    assert (answer.status, answer.output_text, answer.model) == (
        "completed",
        "hello there",
        "memory/echo",
    )
    assert answer.id.startswith("resp_")
    assert (answer.previous_response_id, answer.error) == (None, None)
    assert (answer.instructions, answer.metadata) == ("be kind", {"a": "b"})
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (5, 3)
    more = answer.model_extra or {}
    assert more["store"] is False
    assert more["agentos"]["policy_outcome"]["decision"] == "allowed"
    request = models.pipeline.asked[0][1]
    assert request.messages == [
        ChatMessage("system", "be kind"),
        ChatMessage("user", "hello there"),
    ]


async def test_everything_that_can_be_asked_arrives(models: ModelDoor, openai: AsyncOpenAI) -> None:
    await openai.responses.create(
        model="builtin/echo",
        input=[
            {"role": "developer", "content": "be short"},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "one"},
                    {"type": "input_text", "text": "two"},
                ],
            },
            {"role": "assistant", "content": "let me see"},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [{"type": "input_text", "text": "sun"}],
            },
        ],
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        max_output_tokens=50,
        temperature=0.5,
        top_p=0.9,
        store=True,
    )
    request = models.pipeline.asked[0][1]
    calls = tuple(RequestedToolCall(one, "weather", "weather", {}) for one in ("c1", "c2"))
    assert request.messages == [
        ChatMessage("system", "be short"),
        ChatMessage("user", "one\ntwo"),
        ChatMessage("assistant", "let me see", tool_calls=calls),
        ChatMessage("tool", "rain", tool_call_id="c1"),
        ChatMessage("tool", "sun", tool_call_id="c2"),
    ]
    assert request.tools == (ToolOffer("weather", "weather", "Tells it", SCHEMA),)
    assert (request.tool_choice, request.max_output_tokens) == ("weather", 50)
    assert (request.temperature, request.top_p) == (0.5, 0.9)


async def test_a_conversation_with_tools(openai: AsyncOpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": f"{PARIS}\n{PARIS}"}]
    answer = await openai.responses.create(model="m", input=asked, tools=[WEATHER])
    assert [item.type for item in answer.output] == ["function_call", "function_call"]
    asked += answer.output
    for call, said in zip(answer.output, ("sun", "rain"), strict=True):
        assert call.type == "function_call"
        assert call.arguments == '{"city":"Paris"}'
        asked.append({"type": "function_call_output", "call_id": call.call_id, "output": said})
    answer = await openai.responses.create(model="m", input=asked, tools=[WEATHER])
    assert answer.output_text == "the tools said sun and rain"


async def test_an_answer_goes_back_as_input(models: ModelDoor, openai: AsyncOpenAI) -> None:
    first = await openai.responses.create(model="m", input="one")
    again: list[Any] = [*first.output, {"role": "user", "content": "two"}]
    assert (await openai.responses.create(model="m", input=again)).output_text == "two"
    assert models.pipeline.asked[-1][1].messages[0] == ChatMessage("assistant", "one")


class Plan(BaseModel):
    """A structured answer."""

    steps: list[str]


async def test_structured_output(models: ModelDoor, openai: AsyncOpenAI) -> None:
    answer = await openai.responses.parse(model="m", input='{"steps": ["go"]}', text_format=Plan)
    assert answer.output_parsed == Plan(steps=["go"])
    wanted = models.pipeline.asked[0][1].response_format
    assert wanted is not None
    assert (wanted["type"], wanted["json_schema"]["name"]) == ("json_schema", "Plan")
    assert wanted["json_schema"]["schema"]["required"] == ["steps"]


async def test_an_answer_cut_short_is_incomplete(openai: AsyncOpenAI) -> None:
    answer = await openai.responses.create(model="m", input="a long answer", max_output_tokens=1)
    assert (answer.status, answer.output_text) == ("incomplete", "a lo")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


async def stream(openai: AsyncOpenAI, text: str, **options: Any) -> list[ResponseStreamEvent]:
    events = await openai.responses.create(model="m", input=text, stream=True, **options)
    return [event async for event in events]


async def test_the_events_of_a_text(openai: AsyncOpenAI) -> None:
    events = await stream(openai, "one two")
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "one two"
    assert last.response.usage is not None
    assert (last.response.model_extra or {})["agentos"]["route"]["model"] == "echo"


async def test_the_events_of_tools(openai: AsyncOpenAI) -> None:
    events = await stream(openai, f"say so:\n{PARIS}\n{PARIS}", tools=[WEATHER])
    calls = [e.type for e in events if "function_call" in e.type]
    assert (
        calls
        == [
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
        ]
        * 2
    )
    added = [e for e in events if e.type == "response.output_item.added"]
    assert [e.output_index for e in added] == [0, 1, 2]
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_the_client_s_own_stream_helper(openai: AsyncOpenAI) -> None:
    async with openai.responses.stream(
        model="m", input='{"steps": ["go"]}', text_format=Plan
    ) as events:
        seen = [event async for event in events]
        answer = await events.get_final_response()
    assert answer.output_parsed == Plan(steps=["go"])
    assert any(event.type == "response.output_text.delta" for event in seen)


async def test_its_tools_through_the_helper(openai: AsyncOpenAI) -> None:
    async with openai.responses.stream(
        model="m", input=f"say so:\n{PARIS}", tools=[WEATHER]
    ) as events:
        answer = await events.get_final_response()
    assert [item.type for item in answer.output] == ["message", "function_call"]


async def test_an_empty_answer(openai: AsyncOpenAI) -> None:
    events = await stream(openai, "")
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == ""
    whole = await openai.responses.create(model="m", input="")
    assert [item.type for item in whole.output] == ["message"]


async def test_an_answer_that_breaks_off_raises(openai: AsyncOpenAI) -> None:
    events = await openai.responses.create(
        model="m", input="say so far\nfail provider_error", stream=True
    )
    seen: list[ResponseStreamEvent] = []

    async def read() -> None:
        async for event in events:
            seen.append(event)

    with pytest.raises(APIError) as raised:
        await read()
    assert raised.value.code == "provider_error"
    last = seen[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert last.response.error.message == "told to fail: provider_error"


async def test_the_sync_client(models: ModelDoor) -> None:
    def ask() -> tuple[str, str]:
        with models.sync_client() as client:
            whole = client.responses.create(model="m", input="whole")
            events = list(client.responses.create(model="m", input="in pieces", stream=True))
            pieces = [e.delta for e in events if e.type == "response.output_text.delta"]
            return whole.output_text, "".join(pieces)

    assert await asyncio.to_thread(ask) == ("whole", "in pieces")


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "no response is kept"),
        ({"conversation": "conv_1"}, "conversation", "no response is kept"),
        ({"background": True}, "background", "no response is kept"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", None),
        ({"input": [{"type": "computer_call", "role": "user"}]}, "input[0]", None),
        ({"input": [7]}, "input[0]", "must be a message"),
        ({"input": {}}, "input", "must be a string or a list"),
        ({"input": []}, "input", None),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", None),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
            None,
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "["}]},
            "input[0].arguments",
            "must be JSON",
        ),
        (
            {
                "input": [
                    {
                        "type": "function_call",
                        "call_id": "c",
                        "name": "f",
                        "arguments": '{"a": ' + "[" * 300 + "]" * 300 + "}",
                    }
                ]
            },
            "input[0].arguments",
            "too deep",
        ),
        ({"truncation": "auto"}, "truncation", None),
        ({"max_output_tokens": 0}, "max_output_tokens", None),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", None),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "text"}}}},
            "text.format.schema.type",
            "not a JSON Schema",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_does_not_fit(
    openai: AsyncOpenAI, changes: dict[str, Any], param: str, said: str | None
) -> None:
    with pytest.raises(sdk.BadRequestError, match=said) as raised:
        await openai.responses.create(**{"model": "m", "input": "hi", **changes})
    assert (raised.value.code, raised.value.param) == ("invalid_request", param)
