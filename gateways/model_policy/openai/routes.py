"""The OpenAI-compatible routes of the model door on one page."""

from typing import Final

from fastapi import FastAPI

from agentos.gateways.http.routing import Described, Endpoint, add
from agentos.gateways.http.schemas import Shape
from agentos.gateways.model_policy.openai import shapes as s
from agentos.gateways.model_policy.openai.calls import IDEMPOTENCY_KEY
from agentos.gateways.model_policy.openai.chat_bodies import ChatCompletionCreate
from agentos.gateways.model_policy.openai.chat_completions import create_chat_completion
from agentos.gateways.model_policy.openai.embeddings import EmbeddingsCreate, create_embeddings
from agentos.gateways.model_policy.openai.errors import openai_error_answer
from agentos.gateways.model_policy.openai.fields import OpenAIBody
from agentos.gateways.model_policy.openai.responses import create_response
from agentos.gateways.model_policy.openai.responses_bodies import ResponseCreate

ERRORS: Final = (400, 401, 403, 404, 405, 409, 413, 429, 500, 502, 503, 504)


def add_openai_routes(app: FastAPI) -> None:
    """Add the routes, the busiest first, each with OpenAI's shape of errors on its path."""
    for path, endpoint, about in ROUTES:
        add(app, "POST", path, endpoint, about)
        app.state.error_answers[path] = openai_error_answer


def _described(summary: str, answer: type[Shape], body: type[OpenAIBody]) -> Described:
    return Described(
        summary,
        {200: answer},
        (IDEMPOTENCY_KEY,),
        body,
        errors=ERRORS,
        error_model=s.OpenAIErrorBody,
        may_stream=body is not EmbeddingsCreate,
        tag="openai",
    )


ROUTES: Final[tuple[tuple[str, Endpoint, Described], ...]] = (
    (
        "/v1/chat/completions",
        create_chat_completion,
        _described("Complete a chat", s.ChatCompletion, ChatCompletionCreate),
    ),
    (
        "/v1/embeddings",
        create_embeddings,
        _described("Embed texts", s.EmbeddingList, EmbeddingsCreate),
    ),
    (
        "/v1/responses",
        create_response,
        _described("Make a response", s.ResponseAnswer, ResponseCreate),
    ),
)
