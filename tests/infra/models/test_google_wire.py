"""What Gemini's generateContent is asked, to the letter, and what its answers come to."""

from typing import Any

import pytest

from agentos.domain.errors import AgentOSError
from agentos.domain.ports import ChatMessage, EmbedRequest, ModelRequest
from tests.infra.models.backends import served
from tests.infra.models.conversation import SCHEMA, everything
from tests.infra.models.google_server import GOOGLE, content, either, embeddings, events, json_of
from tests.infra.models.google_server import text as said
from tests.infra.models.requests import caller, request

ROME = {"functionCall": {"name": "get_weather", "args": {"city": "Rome"}}}
OSLO = {"functionCall": {"name": "get_weather", "args": {"city": "Oslo"}}}


def result(response: Any) -> dict[str, Any]:
    return {"functionResponse": {"name": "get_weather", "response": response}}


BODY: dict[str, Any] = {
    "systemInstruction": {"parts": [{"text": "be brief\n\nspeak English"}]},
    "contents": [
        {"role": "user", "parts": [{"text": "how is it in Rome and Oslo?"}]},
        {"role": "model", "parts": [{"text": "I look."}, ROME, OSLO]},
        {
            "role": "user",
            "parts": [result({"sky": "blue"}), result({"result": "no such city"})],
        },
        {"role": "model", "parts": [{"text": "Rome is fine."}]},
        {"role": "user", "parts": [{"text": "and the time?"}, {"text": "in UTC"}]},
    ],
    "tools": [
        {
            "functionDeclarations": [
                {
                    "name": "get_weather",
                    "description": "tells the weather",
                    "parametersJsonSchema": SCHEMA,
                },
                {
                    "name": "tool_clock_now",
                    "description": "",
                    "parametersJsonSchema": {"type": "object", "properties": {}},
                },
            ]
        }
    ],
    "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
    "generationConfig": {
        "maxOutputTokens": 200,
        "temperature": 0.5,
        "topP": 0.9,
        "seed": 7,
        "stopSequences": ["END", "STOP"],
    },
}


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_request_to_the_letter(streamed: bool) -> None:
    async with served(GOOGLE, said("ok")) as (server, backend):
        listener = (lambda _: None) if streamed else None
        await backend.chat(caller(), "gemini-2.5-pro", everything(), listener)
    assert server.bodies == [BODY]
    method = "streamGenerateContent?alt=sse" if streamed else "generateContent"
    assert server.paths == [f"/v1beta/models/gemini-2.5-pro:{method}"]
    headers = {name.lower(): value for name, value in server.headers[0].items()}
    assert headers["x-goog-api-key"] == GOOGLE.key
    assert GOOGLE.key not in server.paths[0]


@pytest.mark.parametrize(
    ("choice", "wire"),
    [
        (None, None),
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ("tool.clock.now", {"mode": "ANY", "allowedFunctionNames": ["tool_clock_now"]}),
    ],
)
async def test_tool_choice(choice: str | None, wire: Any) -> None:
    async with served(GOOGLE, said("ok")) as (server, backend):
        await backend.chat(caller(), "m", everything(choice))
    config = server.bodies[0].get("toolConfig")
    assert config == (None if wire is None else {"functionCallingConfig": wire})


async def test_what_is_not_said_is_not_sent() -> None:
    async with served(GOOGLE, said("ok")) as (server, backend):
        plain = ModelRequest("req_1", "there/m", [ChatMessage("user", "hi")])
        await backend.chat(caller(), "m", plain)
    assert server.bodies == [{"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}]


async def test_calls_of_the_newest_models_carry_a_signature() -> None:
    async with served(GOOGLE, said("ok")) as (server, backend):
        await backend.chat(caller(), "gemini-3-pro", everything())
    parts = server.bodies[0]["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [
        None,
        "skip_thought_signature_validator",
        "skip_thought_signature_validator",
    ]


@pytest.mark.parametrize(
    ("form", "wire"),
    [
        (
            {"type": "json_schema", "json_schema": {"name": "w", "schema": SCHEMA}},
            {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA},
        ),
        ({"type": "json_object"}, {"responseMimeType": "application/json"}),
        ({"type": "text"}, {}),
    ],
)
async def test_structured_output(form: Any, wire: Any) -> None:
    async with served(GOOGLE, said("{}")) as (server, backend):
        await backend.chat(caller(), "m", everything(response_format=form))
    assert server.bodies[0]["generationConfig"] == {**BODY["generationConfig"], **wire}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("reason", "ours"),
    [("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter")],
)
async def test_why_an_answer_ended(reason: str, ours: str, streamed: bool) -> None:
    async with served(GOOGLE, said("a", finish=reason)) as (_, backend):
        listener = (lambda _: None) if streamed else None
        done = await backend.chat(caller(), "m", request("there/m", "hi"), listener)
    assert done.finish_reason == ours


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "OTHER", "LANGUAGE"])
async def test_a_model_that_gives_up_is_no_answer(reason: str) -> None:
    async with served(GOOGLE, said("a", finish=reason)) as (_, backend):
        with pytest.raises(AgentOSError) as raised:
            await backend.chat(caller(), "m", request("there/m", "hi"))
    assert raised.value.code == "provider_error"


async def test_a_question_that_is_blocked_is_an_empty_filtered_answer() -> None:
    blocked = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 4},
    }
    async with served(GOOGLE, either(json_of(blocked), events(blocked))) as (_, backend):
        for listener in (None, lambda _: None):
            done = await backend.chat(caller(), "m", request("there/m", "hi"), listener)
            assert (done.content, done.finish_reason) == ("", "content_filter")
            assert done.usage.input_tokens == 4


async def test_thoughts_are_paid_for_and_not_shown() -> None:
    thought = {"text": "hm", "thought": True, "thoughtSignature": "s"}
    call = {"functionCall": {"name": "get_weather", "args": {"city": "Rome"}}}
    last = content([{"text": "yes"}, call], "STOP")
    last["usageMetadata"] = {
        "promptTokenCount": 50,
        "cachedContentTokenCount": 40,  # part of the prompt's
        "candidatesTokenCount": 3,
        "thoughtsTokenCount": 20,
        "totalTokenCount": 73,
    }
    reply = either(json_of(last), events(content([thought]), last))
    async with served(GOOGLE, reply) as (_, backend):
        for listener in (None, lambda _: None):
            done = await backend.chat(caller(), "m", everything(), listener)
            assert done.content == "yes"
            assert [c.arguments for c in done.tool_calls] == [{"city": "Rome"}]
            assert (done.usage.input_tokens, done.usage.output_tokens) == (50, 23)
            assert done.finish_reason == "tool_calls"


@pytest.mark.parametrize("dimensions", [None, 256])
async def test_embeddings_to_the_letter(dimensions: int | None) -> None:
    size = {} if dimensions is None else {"outputDimensionality": dimensions}
    async with served(GOOGLE, embeddings([[0.5] * (dimensions or 2)] * 2)) as (server, backend):
        asked = EmbedRequest("req_1", "there/e", ["one", "two"], dimensions=dimensions)
        await backend.embed(caller(), "gemini-embedding-001", asked)
    assert server.paths == ["/v1beta/models/gemini-embedding-001:batchEmbedContents"]
    assert server.bodies == [
        {
            "requests": [
                {
                    "model": "models/gemini-embedding-001",
                    "content": {"parts": [{"text": text}]},
                    **size,
                }
                for text in ("one", "two")
            ]
        }
    ]
