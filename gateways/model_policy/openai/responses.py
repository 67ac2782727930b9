"""`POST /v1/responses`."""

from starlette.requests import Request
from starlette.types import ASGIApp

from agentos.gateways.http.bodies import read_raw
from agentos.gateways.http.call import call_of
from agentos.gateways.http.leaving import ClientLeftError, nobody, stopped_when_left
from agentos.gateways.model_policy.openai.answers import OpenAIAnswer
from agentos.gateways.model_policy.openai.calls import begin
from agentos.gateways.model_policy.openai.fields import parse_openai
from agentos.gateways.model_policy.openai.responses_answers import ResponseObject
from agentos.gateways.model_policy.openai.responses_bodies import ResponseCreate
from agentos.gateways.model_policy.openai.responses_events import ResponseEvents
from agentos.gateways.model_policy.openai.responses_requests import to_request
from agentos.gateways.model_policy.parts import parts_of
from agentos.gateways.model_policy.streams import StreamedAnswer


async def create_response(request: Request) -> ASGIApp:
    """Answer a conversation: whole, or with `stream: true` as named events.

    No response is kept: `store` is passed over, `previous_response_id` refused. What fails
    before the first event is a JSON error; behind it `response.failed` and `error` end the
    stream.
    """
    raw = await read_raw(request)
    body = parse_openai(raw, ResponseCreate)
    caller, request_id = begin(request.scope, raw, body.auth)
    asked = to_request(body, request_id)
    parts = parts_of(request)
    response = ResponseObject(body, request_id)
    if body.stream:
        return StreamedAnswer(parts, caller, asked, ResponseEvents(response))
    try:
        with stopped_when_left(request.scope):
            done = await parts.pipeline.chat(caller, asked)
    except ClientLeftError:
        return nobody
    correlation_id = call_of(request.scope).correlation_id
    return OpenAIAnswer(response.whole(done, correlation_id), done.outcome)
