"""Chat completions, asked by the official client."""

import asyncio
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI, LengthFinishReasonError, pydantic_function_tool
from openai.types.chat import ChatCompletionChunk, ChatCompletionToolParam
from pydantic import BaseModel

from agentos.domain.ports import ChatMessage, RequestedToolCall, ToolOffer
from tests.gateways.openai.conftest import ModelDoor

WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it", "parameters": WEATHER_SCHEMA},
}
PARIS = 'call weather {"city": "Paris"}'


async def test_a_whole_answer(models: ModelDoor, openai: AsyncOpenAI) -> None:
    answer = await openai.chat.completions.create(
        model="tier:fast", messages=[{"role": "user", "content": "hello there"}]
    )
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "memory/echo"
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "hello there")
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)
    assert answer.usage.total_tokens == 6


async def test_the_agentos_member_and_headers(openai: AsyncOpenAI) -> None:
    raw = await openai.chat.completions.with_raw_response.create(
        model="tier:fast",
        messages=[{"role": "user", "content": "hi"}],
        extra_headers={"X-Correlation-Id": "corr_mine"},
    )
    assert raw.headers["x-agentos-backend"] == "memory"
    assert raw.headers["x-agentos-model"] == "echo"
    assert raw.headers["x-agentos-policy"] == "allowed"
    assert raw.headers["x-agentos-cost-usd"] == "0.250000"
    own = raw.parse().model_extra
    assert own == {
        "agentos": {
            "policy_outcome": {
                "decision": "allowed",
                "reasons": ["pol_default@1"],
                "redactions": [],
            },
            "route": {
                "backend": "memory",
                "model": "echo",
                "node": "stk_local",
                "fallback_used": False,
            },
            "latency_ms": 3,
            "cost_usd": 0.25,
            "correlation_id": "corr_mine",
        }
    }


async def test_everything_that_can_be_asked_arrives(models: ModelDoor, openai: AsyncOpenAI) -> None:
    await openai.chat.completions.create(
        model="builtin/echo",
        messages=[
            {"role": "developer", "content": "be kind"},
            {"role": "system", "content": "be short", "name": "boss"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
                    }
                ],
            },
            {"role": "tool", "content": "rain", "tool_call_id": "c1"},
            {"role": "user", "content": "thanks"},
        ],
        tools=[WEATHER],
        tool_choice="auto",
        temperature=0.5,
        top_p=0.9,
        stop=["END", "STOP"],
        seed=7,
        n=1,
        max_completion_tokens=100,
        user="somebody",
        metadata={"a": "b"},
    )
    caller, request = models.pipeline.asked[-1]
    assert caller.auth.principal.principal_id == "usr_a"
    assert caller.fingerprint is None
    assert request.request_id.startswith("req_")
    assert request.model_ref == "builtin/echo"
    assert request.messages == [
        ChatMessage("system", "be kind"),
        ChatMessage("system", "be short", name="boss"),
        ChatMessage("user", "one\ntwo"),
        ChatMessage(
            "assistant",
            "",
            tool_calls=(RequestedToolCall("c1", "weather", "weather", {"city": "Paris"}),),
        ),
        ChatMessage("tool", "rain", tool_call_id="c1"),
        ChatMessage("user", "thanks"),
    ]
    assert request.tools == (ToolOffer("weather", "weather", "Tells it", WEATHER_SCHEMA),)
    assert (request.tool_choice, request.temperature, request.top_p) == ("auto", 0.5, 0.9)
    assert (request.stop, request.seed, request.max_output_tokens) == (("END", "STOP"), 7, 100)
    assert request.response_format is None


async def stream(openai: AsyncOpenAI, text: str, **options: Any) -> list[ChatCompletionChunk]:
    chunks = await openai.chat.completions.create(
        model="tier:fast", messages=[{"role": "user", "content": text}], stream=True, **options
    )
    return [chunk async for chunk in chunks]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


async def test_a_streamed_answer(openai: AsyncOpenAI) -> None:
    chunks = await stream(openai, "one two three")
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == "one two three"
    assert sum(1 for c in chunks if c.choices[0].delta.content) == 3
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is None
    assert len({chunk.id for chunk in chunks}) == 1
    assert [c.model_extra for c in chunks[:-1]] == [{}] * (len(chunks) - 1)
    own = (chunks[-1].model_extra or {})["agentos"]
    assert (own["route"]["model"], chunks[-1].model) == ("echo", "memory/echo")
    assert own["cost_usd"] == 0.25


async def test_a_stream_with_usage(openai: AsyncOpenAI) -> None:
    *chunks, last = await stream(openai, "one two", stream_options={"include_usage": True})
    assert all("usage" in c.model_fields_set and c.usage is None for c in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 4
    assert "agentos" in (last.model_extra or {})
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_the_first_piece_does_not_wait_for_the_second(
    models: ModelDoor, openai: AsyncOpenAI
) -> None:
    chunks = await openai.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "say one\nwait\nsay two"}], stream=True
    )
    seen = ""
    async with asyncio.timeout(5):
        async for chunk in chunks:
            seen += chunk.choices[0].delta.content or ""
            if seen == "one":
                assert not models.pipeline.go_on.is_set()
                models.pipeline.go_on.set()
    assert seen == "onetwo"


async def test_an_empty_answer(openai: AsyncOpenAI) -> None:
    chunks = await stream(openai, "")
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (text_of(chunks), chunks[-1].choices[0].finish_reason) == ("", "stop")


async def test_tools_asked_for_side_by_side(openai: AsyncOpenAI) -> None:
    answer = await openai.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": f"{PARIS}\ncall weather"}],
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    message = answer.choices[0].message
    assert (message.content, answer.choices[0].finish_reason) == (None, "tool_calls")
    assert message.tool_calls is not None
    one, two = message.tool_calls
    assert one.type == "function"
    assert (one.function.name, one.function.arguments) == ("weather", '{"city":"Paris"}')
    assert one.id != two.id


async def test_a_choice_reaches_the_pipeline(models: ModelDoor, openai: AsyncOpenAI) -> None:
    choices: list[tuple[Any, str]] = [
        ("required", "required"),
        ("none", "none"),
        ({"type": "function", "function": {"name": "weather"}}, "weather"),
    ]
    for sent, expected in choices:
        await openai.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "hi"}],
            tools=[WEATHER],
            tool_choice=sent,
        )
        assert models.pipeline.asked[-1][1].tool_choice == expected


async def test_one_call_at_a_time(openai: AsyncOpenAI) -> None:
    chunks = await stream(openai, f"{PARIS}\n{PARIS}", tools=[WEATHER], parallel_tool_calls=False)
    calls = [c for k in chunks if k.choices for c in k.choices[0].delta.tool_calls or ()]
    assert [(call.index, call.function and call.function.name) for call in calls] == [
        (0, "weather")
    ]


async def test_a_conversation_with_a_tool(openai: AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": PARIS}]
    answer = await openai.chat.completions.create(model="m", messages=messages, tools=[WEATHER])
    asked = answer.choices[0].message
    assert asked.tool_calls
    messages += [asked, {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "sun"}]
    answer = await openai.chat.completions.create(model="m", messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content == "the tools said sun"


async def test_streamed_tools(openai: AsyncOpenAI) -> None:
    chunks = await stream(openai, f"say so:\n{PARIS}\n{PARIS}", tools=[WEATHER])
    assert text_of(chunks) == "so:"
    calls = [c for k in chunks if k.choices for c in k.choices[0].delta.tool_calls or ()]
    assert [call.index for call in calls] == [0, 1]
    assert {call.function and call.function.arguments for call in calls} == {'{"city":"Paris"}'}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


class Step(BaseModel):
    """A part of a structured answer."""

    said: str


class Plan(BaseModel):
    """A structured answer."""

    steps: list[Step]


PLAN = '{"steps": [{"said": "go"}]}'


async def test_structured_output(models: ModelDoor, openai: AsyncOpenAI) -> None:
    answer = await openai.chat.completions.parse(
        model="m", messages=[{"role": "user", "content": PLAN}], response_format=Plan
    )
    assert answer.choices[0].message.parsed == Plan(steps=[Step(said="go")])
    wanted = models.pipeline.asked[-1][1].response_format
    assert wanted is not None
    assert wanted["type"] == "json_schema"
    assert wanted["json_schema"]["name"] == "Plan"
    assert wanted["json_schema"]["strict"] is True
    assert wanted["json_schema"]["schema"]["required"] == ["steps"]


async def test_structured_output_that_was_cut_short(openai: AsyncOpenAI) -> None:
    with pytest.raises(LengthFinishReasonError):
        await openai.chat.completions.parse(
            model="m",
            messages=[{"role": "user", "content": PLAN}],
            response_format=Plan,
            max_tokens=1,
        )


async def test_a_json_object(models: ModelDoor, openai: AsyncOpenAI) -> None:
    await openai.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "{}"}],
        response_format={"type": "json_object"},
    )
    assert models.pipeline.asked[-1][1].response_format == {"type": "json_object"}


async def test_tools_that_the_client_parses(openai: AsyncOpenAI) -> None:
    answer = await openai.chat.completions.parse(
        model="m",
        messages=[{"role": "user", "content": 'call Step {"said": "go"}'}],
        tools=[pydantic_function_tool(Step)],
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Step(said="go")


async def test_the_client_s_own_stream_helper(openai: AsyncOpenAI) -> None:
    async with openai.chat.completions.stream(
        model="m", messages=[{"role": "user", "content": PLAN}], response_format=Plan
    ) as events:
        answer = await events.get_final_completion()
    assert answer.choices[0].message.parsed == Plan(steps=[Step(said="go")])


async def test_the_sync_client(models: ModelDoor) -> None:
    def ask() -> tuple[str | None, str]:
        with models.sync_client() as client:
            whole = client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "whole"}]
            )
            pieces = client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "in pieces"}], stream=True
            )
            return whole.choices[0].message.content, text_of(list(pieces))

    assert await asyncio.to_thread(ask) == ("whole", "in pieces")


@pytest.mark.parametrize("code", ["provider_error", "timeout", "policy_blocked", "quota_exceeded"])
async def test_an_answer_that_breaks_off_raises(openai: AsyncOpenAI, code: str) -> None:
    chunks = await openai.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": f"say so far\nfail {code}"}],
        stream=True,
    )
    seen: list[ChatCompletionChunk] = []

    async def read() -> None:
        async for chunk in chunks:
            seen.append(chunk)

    with pytest.raises(APIError) as raised:
        await read()
    assert text_of(seen) == "so far"
    assert all(chunk.choices[0].finish_reason is None for chunk in seen)
    assert raised.value.code == code
    assert raised.value.message == f"told to fail: {code}"


async def test_a_stream_that_breaks_off_has_no_clean_end(models: ModelDoor) -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "say so far\nfail provider_error"}],
        "stream": True,
    }
    sent = {"Authorization": f"Bearer {models.key}", "X-Correlation-Id": "corr_1"}
    async with models.http.post("/v1/chat/completions", json=body, headers=sent) as response:
        raw = await response.read()
    assert response.headers["content-type"] == "text/event-stream"
    assert b"[DONE]" not in raw
    *_, last = raw.strip().split(b"\n\n")
    assert last == (
        b'data: {"error":{"message":"told to fail: provider_error","type":"server_error",'
        b'"param":null,"code":"provider_error","retryable":true,"details":{}},'
        b'"correlation_id":"corr_1"}'
    )
