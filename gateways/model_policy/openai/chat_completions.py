"""`POST /v1/chat/completions`."""

from starlette.requests import Request
from starlette.types import ASGIApp

from agentos.gateways.http.bodies import read_raw
from agentos.gateways.http.call import call_of
from agentos.gateways.http.leaving import ClientLeftError, nobody, stopped_when_left
from agentos.gateways.model_policy.openai.answers import OpenAIAnswer
from agentos.gateways.model_policy.openai.calls import begin
from agentos.gateways.model_policy.openai.chat_answers import Chunks, completion
from agentos.gateways.model_policy.openai.chat_bodies import ChatCompletionCreate
from agentos.gateways.model_policy.openai.chat_requests import to_request
from agentos.gateways.model_policy.openai.fields import parse_openai
from agentos.gateways.model_policy.parts import parts_of
from agentos.gateways.model_policy.streams import StreamedAnswer


async def create_chat_completion(request: Request) -> ASGIApp:
    """Answer a conversation: whole, or with `stream: true` as server-sent chunks.

    What fails before the first chunk is a JSON error; behind it an `error` event ends the
    stream, without `[DONE]`.
    """
    raw = await read_raw(request)
    body = parse_openai(raw, ChatCompletionCreate)
    caller, request_id = begin(request.scope, raw, body.auth)
    asked = to_request(body, request_id)
    parts = parts_of(request)
    if body.stream:
        options = body.stream_options
        chunks = Chunks(
            request_id,
            body.model,
            include_usage=bool(options and options.include_usage),
            parallel=body.parallel_tool_calls,
        )
        return StreamedAnswer(parts, caller, asked, chunks)
    try:
        with stopped_when_left(request.scope):
            done = await parts.pipeline.chat(caller, asked)
    except ClientLeftError:
        return nobody
    correlation_id = call_of(request.scope).correlation_id
    return OpenAIAnswer(completion(done, correlation_id, body.parallel_tool_calls), done.outcome)
