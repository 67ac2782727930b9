"""What holds for the vectors of every embedding server."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from agentos.domain.errors import ProviderError
from agentos.domain.ports import EmbedAnswer, EmbedRequest, Usage
from agentos.infra.models.answer_parts import WRONG_SHAPE
from agentos.infra.models.tokens import tokens_of

MAX_EMBED_BYTES: Final = 128 * 1024 * 1024

Parsed = tuple[list[list[float]], int | None]


def embed_answer(
    body: bytes,
    parse: Callable[[Mapping[str, Any]], Parsed],
    request: EmbedRequest,
    backend: str,
    model: str,
) -> EmbedAnswer:
    """Return the answer that `parse` finds in `body` as `(vectors, input tokens or None)`.

    `ProviderError` unless there is one vector of finite numbers for each text, all as long.
    """
    try:
        vectors, tokens = parse(orjson.loads(body))
        _check(vectors, len(request.texts))
    except WRONG_SHAPE:
        raise ProviderError(
            "the backend's embeddings are not in its format", stage="answer", backend=backend
        ) from None
    used = tokens_of(request.texts) if tokens is None else tokens
    return EmbedAnswer(vectors, Usage(used, 0), backend, model)


def _check(vectors: list[list[float]], expected: int) -> None:
    if len(vectors) != expected or len({len(vector) for vector in vectors}) > 1:
        raise ValueError("vectors are missing or of different lengths")
    for vector in vectors:
        # A sum is finite only if all numbers are, and fails on what is no number.
        if not vector or not math.isfinite(math.fsum(vector)):
            raise ValueError("a vector is empty or not finite")
