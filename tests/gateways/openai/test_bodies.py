"""Bodies that do not fit: a 400 that says where, never a crash, and nothing half done."""

import json
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.errors import AgentOSError, InvalidJsonError, InvalidRequestError
from agentos.domain.ports import EmbedRequest, ModelRequest
from agentos.gateways.model_policy.openai import chat_requests, responses_requests
from agentos.gateways.model_policy.openai.chat_bodies import ChatCompletionCreate
from agentos.gateways.model_policy.openai.embeddings import EmbeddingsCreate
from agentos.gateways.model_policy.openai.errors import openai_error
from agentos.gateways.model_policy.openai.fields import parse_openai
from agentos.gateways.model_policy.openai.responses_answers import ResponseObject
from agentos.gateways.model_policy.openai.responses_bodies import ResponseCreate

USER: Final[dict[str, Any]] = {"role": "user", "content": "hi"}
TOOL: Final[dict[str, Any]] = {"type": "function", "function": {"name": "f"}}
CALLED: Final[dict[str, Any]] = {
    "role": "assistant",
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}


def chat(raw: bytes) -> ModelRequest:
    return chat_requests.to_request(parse_openai(raw, ChatCompletionCreate), "req_1")


def response(raw: bytes) -> ModelRequest:
    body = parse_openai(raw, ResponseCreate)
    ResponseObject(body, "req_1")
    return responses_requests.to_request(body, "req_1")


def embedding(raw: bytes) -> EmbedRequest:
    body = parse_openai(raw, EmbeddingsCreate)
    return EmbedRequest("req_1", body.model, list(body.input), dimensions=body.dimensions)


def called(arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(CALLED))
    found["tool_calls"][0]["function"]["arguments"] = arguments
    return found


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": "x" * 257}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [5]}, "messages[0]"),
    ({"messages": [{}]}, "messages[0]"),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages[0]"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [USER, {"role": "user", "content": None}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [called("{")]}, "messages[0].tool_calls[0].function.arguments"),
    (
        {"messages": [called('{"a": ' + "[" * 300 + "]" * 300 + "}")]},
        "messages[0].tool_calls[0].function.arguments",
    ),
    ({"messages": [called("[1]")]}, "messages[0].tool_calls[0].function.arguments"),
    ({"messages": [called('{"a": NaN}')]}, "messages[0].tool_calls[0].function.arguments"),
    ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": float("inf")}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"seed": 2**63}, "seed"),
    ({"n": 2}, "n"),
    ({"stop": 5}, "stop"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stream": "yes"}, "stream"),
    ({"logprobs": True}, "logprobs"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"modalities": ["text", "audio"]}, "modalities[1]"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "auto"}}]}, "tools[0].function.name"),
    ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
        "tools[0].function.parameters",
    ),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "str"}}}]},
        "tools[0].function.parameters.type",
    ),
    (
        {
            "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
            ]
        },
        "tools[0].function.parameters.type",
    ),
    ({"tools": [TOOL] * 129}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "f"}, "tool_choice"),
    ({"tool_choice": 5}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools"}, "tools": [TOOL]}, "tool_choice.type"),
    (
        {"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [TOOL]},
        "tool_choice",
    ),
    ({"response_format": {"type": "grammar"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 5}}},
        "response_format.json_schema.schema",
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"properties": {"a": 5}}},
            }
        },
        "response_format.json_schema.schema.properties.a",
    ),
    ({"auth": 5}, "auth"),
]


@pytest.mark.parametrize(("changes", "param"), MISFITS)
def test_what_does_not_fit_is_located(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        chat(json.dumps({"model": "m", "messages": [USER], **changes}).encode())
    told = openai_error(raised.value, "corr_1")["error"]
    assert told["param"] == param
    assert told["message"].startswith(f"{param}: ")


def test_harmless_things_are_passed_over() -> None:
    body = {
        "model": "m",
        "messages": [{**USER, "odd": 1, "content": "NaN \\u0000 Infinity"}],
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "logprobs": False,
        "logit_bias": {},
        "functions": None,
        "n": None,
        "unknown": {"deep": [1]},
        "reasoning_effort": "low",
        "response_format": {"type": "text"},
    }
    request = chat(json.dumps(body).encode())
    assert request.messages[0].content == "NaN \\u0000 Infinity"
    assert request.response_format is None


@pytest.mark.parametrize("arguments", ["", "{}"])
def test_a_call_without_arguments(arguments: str) -> None:
    request = chat(json.dumps({"model": "m", "messages": [called(arguments)]}).encode())
    assert request.messages[0].tool_calls[0].arguments == {}


NOT_JSON = [
    b"",
    b"{",
    b'{"model": "\xff"}',
    b'{"model": "\\ud800"}',
    b"[" * 100_000,
    b'{"messages":' * 50_000,
    b'{"model": "m"} trailing',
]
READERS: Final[list[Callable[[bytes], Any]]] = [chat, response, embedding]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("raw", NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_is_not_json(read: Callable[[bytes], Any], raw: bytes) -> None:
    with pytest.raises(InvalidJsonError):
        read(raw)


ANYTHING: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        "user system assistant tool function auto required none text f message function_call "
        "function_call_output json_schema json_object object string array".split()
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "role content type text function name parameters arguments id tool_calls messages "
                "input tools call_id output schema json_schema properties items enum required "
                "format".split()
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS: Final = st.sampled_from(
    "messages model stream stream_options tools tool_choice parallel_tool_calls response_format "
    "max_tokens max_completion_tokens temperature top_p stop seed n logprobs logit_bias input "
    "instructions text metadata store previous_response_id encoding_format dimensions auth "
    "user".split()
)
NEARLY: Final = st.dictionaries(FIELDS, ANYTHING, max_size=5).map(
    lambda odd: {"model": "m", "messages": [USER], "input": "hi", **odd}
)


def refusal(read: Callable[[bytes], Any], raw: bytes) -> AgentOSError | None:
    """Return with which of the two errors of a 400 a body is refused; any other is raised."""
    try:
        read(raw)
    except (InvalidJsonError, InvalidRequestError) as error:
        return error
    return None


def refused_well(read: Callable[[bytes], Any], raw: bytes) -> None:
    """Check that a body is taken, or refused so that it can be answered."""
    error = refusal(read, raw)
    if error is None:
        return
    told = openai_error(error, "corr_1")["error"]
    assert json.dumps(told)
    assert told["message"]
    if isinstance(error, InvalidRequestError):
        first, *rest = error.details["errors"]
        assert first["loc"][0] == "body"
        assert first["msg"]
        assert len(rest) < 20


@pytest.mark.parametrize("read", READERS)
@given(body=NEARLY | ANYTHING)
def test_nothing_crashes(read: Callable[[bytes], Any], body: Any) -> None:
    refused_well(read, json.dumps(body).encode())


@pytest.mark.parametrize("read", READERS)
@given(raw=st.binary(max_size=200))
def test_no_bytes_crash(read: Callable[[bytes], Any], raw: bytes) -> None:
    refused_well(read, raw)


@given(
    st.lists(
        st.builds(
            lambda role, text: {"role": role, "content": text},
            st.sampled_from(["user", "system", "assistant", "developer"]),
            st.text(max_size=20),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_said_arrives_as_it_was_said(messages: list[dict[str, str]]) -> None:
    raw = json.dumps({"model": "m", "messages": messages, "input": messages}).encode()
    if any("\0" in message["content"] for message in messages):
        for read in (chat, response):
            with pytest.raises(InvalidRequestError):
                read(raw)
        return
    expected = [(m["role"].replace("developer", "system"), m["content"]) for m in messages]
    for read in (chat, response):
        assert [(m.role, m.content) for m in read(raw).messages] == expected
