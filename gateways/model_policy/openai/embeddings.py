"""`POST /v1/embeddings`."""

import sys
from array import array
from base64 import b64encode
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BeforeValidator, Field, Tag
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.types import ASGIApp

from agentos.domain.ports import EmbedRequest
from agentos.gateways.http.bodies import read_raw
from agentos.gateways.http.call import call_of
from agentos.gateways.http.leaving import ClientLeftError, nobody, stopped_when_left
from agentos.gateways.model_policy.calls import Embedded
from agentos.gateways.model_policy.openai.answers import OpenAIAnswer, model_id, own_member
from agentos.gateways.model_policy.openai.calls import begin
from agentos.gateways.model_policy.openai.fields import OpenAIBody, by_form, parse_openai
from agentos.gateways.model_policy.parts import parts_of

MAX_TEXTS: Final = 2048
TOKENS: Final = "must be text: token numbers belong to one model's vocabulary and are not taken"


def _text(value: Any) -> Any:
    if isinstance(value, list) or type(value) is int:
        raise PydanticCustomError("tokens", TOKENS)
    return value


EmbedText = Annotated[str, BeforeValidator(_text), Field(min_length=1)]
EmbedInput = Annotated[
    Annotated[EmbedText, Tag("text")]
    | Annotated[list[EmbedText], Field(min_length=1, max_length=MAX_TEXTS), Tag("list")],
    by_form("must be a string or a list of strings"),
]


class EmbeddingsCreate(OpenAIBody):
    """The body that asks for embeddings."""

    input: EmbedInput
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, le=16_384)


async def create_embeddings(request: Request) -> ASGIApp:
    """Return a vector for each text, as numbers or as base64 of little-endian float32."""
    raw = await read_raw(request)
    body = parse_openai(raw, EmbeddingsCreate)
    caller, request_id = begin(request.scope, raw, body.auth)
    texts = (body.input,) if isinstance(body.input, str) else tuple(body.input)
    asked = EmbedRequest(request_id, body.model, texts, dimensions=body.dimensions)
    try:
        with stopped_when_left(request.scope):
            done = await parts_of(request).pipeline.embed(caller, asked)
    except ClientLeftError:
        return nobody
    correlation_id = call_of(request.scope).correlation_id
    as_base64 = body.encoding_format == "base64"
    return OpenAIAnswer(embedding_list(done, correlation_id, as_base64=as_base64), done.outcome)


def embedding_list(done: Embedded, correlation_id: str, *, as_base64: bool) -> bytes:
    """Return the whole answer."""
    spelled = _base64 if as_base64 else list
    tokens = done.answer.usage.input_tokens
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": at, "embedding": spelled(vector)}
                for at, vector in enumerate(done.answer.vectors)
            ],
            "model": model_id(done.outcome),
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "agentos": own_member(done.outcome, correlation_id),
        }
    )


def _base64(vector: Sequence[float]) -> str:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode()
