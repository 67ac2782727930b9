"""`POST /v1/models:invoke`: the canonical call, whole or as server-sent events."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp

from agentos.domain.auth import RUNTIME_ROLE, AuthContext
from agentos.domain.errors import AgentOSError
from agentos.domain.ports import (
    ChatMessage,
    EmbedRequest,
    ModelRequest,
    RequestedToolCall,
    Requirements,
    ToolOffer,
)
from agentos.gateways.http.answers import json_answer
from agentos.gateways.http.authorization import require
from agentos.gateways.http.bodies import narrowed, read_body
from agentos.gateways.http.call import Call, call_of
from agentos.gateways.http.errors import misfit
from agentos.gateways.http.leaving import ClientLeftError, nobody, stopped_when_left
from agentos.gateways.http.routing import Described, add
from agentos.gateways.model_policy.calls import Caller, Completed
from agentos.gateways.model_policy.json_schema import NotASchemaError, check_schema
from agentos.gateways.model_policy.parts import parts_of
from agentos.gateways.model_policy.records import completed_record, embedded_record
from agentos.gateways.model_policy.schemas import (
    Invoke,
    InvokeAnswer,
    InvokeRequest,
    Message,
    OfferedTool,
    RequirementsAsked,
)
from agentos.gateways.model_policy.streams import StreamedAnswer

MODES: Final = ("auto", "none", "required")
ERRORS: Final = (400, 401, 403, 409, 413, 429, 500, 502, 503, 504)


def add_canonical(app: FastAPI) -> None:
    """Add the canonical call."""
    about = Described("Call a model", {200: InvokeAnswer}, body=Invoke, errors=ERRORS, tag="models")
    add(app, "POST", "/v1/models:invoke", invoke_model, about)


async def invoke_model(request: Request) -> ASGIApp:
    """Make one governed model call.

    The same `request_id` again returns the first answer and is not billed twice.
    """
    call = call_of(request.scope)
    body = await read_body(request, Invoke)
    call.continue_from(body.traceparent)
    auth = narrowed(call.caller, body.auth)
    require(auth, "models:invoke")
    asked = body.request
    caller = caller_of(call, auth, asked)
    parts = parts_of(request)
    pipeline = parts.pipeline
    try:
        if asked.operation == "embed":
            with stopped_when_left(request.scope):
                embedded = await pipeline.embed(caller, embed_request(asked))
            return json_answer(_answer(embedded_record(embedded), call), call.correlation_id)
        wanted = chat_request(asked)
        if body.stream:
            return StreamedAnswer(parts, caller, wanted, _Events(call))
        with stopped_when_left(request.scope):
            completed = await pipeline.chat(caller, wanted)
        return json_answer(_answer(completed_record(completed), call), call.correlation_id)
    except ClientLeftError:
        return nobody


def caller_of(call: Call, auth: AuthContext, asked: InvokeRequest) -> Caller:
    """Return who calls; what a body says of its run is the runtime's word only."""
    origin = asked.origin if RUNTIME_ROLE in auth.roles else None
    content = asked.model_dump_json(exclude={"origin", "timeout_ms"})
    return Caller(
        auth=auth,
        correlation_id=call.correlation_id,
        traceparent=call.traceparent,
        parent_span_id=call.parent_span_id,
        agent_id=origin.agent_id if origin else None,
        run_id=origin.run_id if origin else None,
        labels=origin.labels if origin else {},
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        is_first_attempt=origin.is_first if origin else False,
        sealed=origin.sealed if origin else "",
    )


def chat_request(asked: InvokeRequest) -> ModelRequest:
    """Return the chat call that was asked for; `InvalidRequestError` without messages."""
    given = asked.input
    if given.messages is None:
        raise misfit(["body", "request", "input", "messages"], "a chat needs messages")
    offers = _offers(given.tools)
    choice = given.tool_choice
    if choice not in (None, *MODES) and all(offer.name != choice for offer in offers):
        raise misfit(["body", "request", "input", "tool_choice"], "no offered tool has this name")
    return ModelRequest(
        request_id=asked.request_id,
        model_ref=asked.model_ref,
        messages=[_message(message) for message in given.messages],
        tools=offers,
        max_output_tokens=asked.generation.max_output_tokens,
        timeout_ms=asked.timeout_ms,
        tool_choice=choice,
        temperature=asked.generation.temperature,
        top_p=asked.generation.top_p,
        requirements=_requirements(asked.requirements),
    )


def embed_request(asked: InvokeRequest) -> EmbedRequest:
    """Return the embedding call that was asked for; `InvalidRequestError` without texts."""
    if asked.input.texts is None:
        raise misfit(["body", "request", "input", "texts"], "an embedding needs texts")
    return EmbedRequest(
        request_id=asked.request_id,
        model_ref=asked.model_ref,
        texts=asked.input.texts,
        timeout_ms=asked.timeout_ms,
        requirements=_requirements(asked.requirements),
    )


def _message(message: Message) -> ChatMessage:
    calls = tuple(
        RequestedToolCall(c.tool_call_id, c.tool_id, c.name or c.tool_id, c.arguments)
        for c in message.tool_calls
    )
    return ChatMessage(message.role, message.content, message.tool_call_id, calls, message.name)


def _offers(tools: Sequence[OfferedTool]) -> list[ToolOffer]:
    offers: dict[str, ToolOffer] = {}
    for index, tool in enumerate(tools):
        place: list[str | int] = ["body", "request", "input", "tools", index]
        name = tool.name or tool.tool_id
        if name in MODES or name in offers:
            why = "is a mode of tool_choice" if name in MODES else "is there twice"
            raise misfit([*place, "name"], why)
        _require_schema(tool.input_schema, [*place, "input_schema"])
        offers[name] = ToolOffer(tool.tool_id, name, tool.description, tool.input_schema)
    return list(offers.values())


def _require_schema(schema: Mapping[str, Any], place: list[str | int]) -> None:
    try:
        check_schema(schema)
    except NotASchemaError as error:
        raise misfit([*place, *error.loc], f"not a JSON Schema: {error.msg}") from error
    if schema.get("type", "object") != "object":
        raise misfit([*place, "type"], "must be object")


def _requirements(asked: RequirementsAsked | None) -> Requirements | None:
    if asked is None:
        return None
    return Requirements(asked.max_latency_ms, asked.max_cost_usd, asked.min_context_tokens)


def _answer(response: dict[str, Any], call: Call) -> dict[str, Any]:
    return {"response": response, "traceparent": call.traceparent}


class _Events:
    """The answer as server-sent events: `agentos.delta` …, then `agentos.response`.

    Behind the first text a failure is `agentos.error`, and no response comes.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._sent = 0

    def text(self, delta: str) -> bytes:
        """Return the event of a piece of text."""
        self._sent += len(delta)
        return _event(b"agentos.delta", {"text": delta})

    def rest(self, done: Completed, correlation_id: str) -> bytes:
        """Return the response, behind what was not sent of the text."""
        missing = done.answer.content[self._sent :]
        answer = _answer(completed_record(done), self._call)
        last = _event(b"agentos.response", {**answer, "correlation_id": correlation_id})
        return self.text(missing) + last if missing else last

    def failure(self, error: AgentOSError, correlation_id: str) -> bytes:
        """Return why the answer broke off."""
        told = {"error": error.to_wire(), "correlation_id": correlation_id}
        return _event(b"agentos.error", told)


def _event(name: bytes, data: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, orjson.dumps(data, default=str))
