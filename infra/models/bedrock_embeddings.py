"""Embeddings of Amazon's Titan and of Cohere's models through Bedrock's InvokeModel."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from agentos.domain.errors import AgentOSError, InvalidRequestError
from agentos.domain.ports import EmbedAnswer, EmbedRequest, Usage
from agentos.infra.models.bodies import encode
from agentos.infra.models.embeddings import Parsed, embed_answer
from agentos.infra.models.tokens import counted

MAX_COHERE_TEXTS: Final = 96
AT_ONCE: Final = 8

Invoke = Callable[[bytes], Awaitable[bytes]]


async def embed(invoke: Invoke, request: EmbedRequest, backend: str, model: str) -> EmbedAnswer:
    """Return the vectors of all texts, in as many calls as the model needs, 8 at a time.

    `InvalidRequestError` for a model whose format is not known.
    """
    if "titan-embed" in model:
        size, to_body, parse = 1, _titan_body, _titan_vector
    elif "cohere.embed" in model:
        size, to_body, parse = MAX_COHERE_TEXTS, _cohere_body, _cohere_vectors
    else:
        raise InvalidRequestError(
            "the backend knows the embeddings of Titan and Cohere only",
            backend=backend,
            model=model[:200],
            stage="answer",
        )
    texts = request.texts
    groups = [texts[start : start + size] for start in range(0, len(texts), size)]
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(group: Sequence[str]) -> EmbedAnswer:
        async with gate:
            body = await invoke(encode(to_body(group, request.dimensions)))
        part = EmbedRequest(request.request_id, request.model_ref, group)
        return embed_answer(body, parse, part, backend, model)

    try:
        async with asyncio.TaskGroup() as tasks:
            answers = [tasks.create_task(one(group)) for group in groups]
    except* AgentOSError as failures:
        raise failures.exceptions[0] from None
    done = [answer.result() for answer in answers]
    vectors = [vector for answer in done for vector in answer.vectors]
    used = sum(answer.usage.input_tokens for answer in done)
    return EmbedAnswer(vectors, Usage(used, 0), backend, model)


def _titan_body(texts: Sequence[str], dimensions: int | None) -> dict[str, Any]:
    size = {} if dimensions is None else {"dimensions": dimensions}
    return {"inputText": texts[0], **size}


def _titan_vector(answer: Mapping[str, Any]) -> Parsed:
    return [answer["embedding"]], counted(answer["inputTextTokenCount"])


def _cohere_body(texts: Sequence[str], dimensions: int | None) -> dict[str, Any]:
    size = {} if dimensions is None else {"output_dimension": dimensions}
    return {"texts": list(texts), "input_type": "search_document", **size}


def _cohere_vectors(answer: Mapping[str, Any]) -> Parsed:
    found = answer["embeddings"]
    return (found["float"] if isinstance(found, dict) else found), None
