"""Embeddings without a model: texts that share words or parts of words have near vectors.

Each word, and each run of three characters in it, is hashed to one of 64 dimensions and a
sign; the sum is scaled to unit length. The same text has the same vector in every process.
"""

import asyncio
import math
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

DIMENSIONS: Final = 64
WORD_WEIGHT: Final = 3.0
# Longer texts are hashed in a thread, so that nobody else waits for them.
MAX_CHARACTERS_AT_ONCE: Final = 4_000

_WORD: Final = re.compile(r"\w+|[^\w\s]")


async def hashed_vectors(texts: Sequence[str]) -> list[list[float]]:
    """Return a unit vector of 64 numbers for each text; an empty one has one too."""
    if sum(map(len, texts)) > MAX_CHARACTERS_AT_ONCE:
        return await asyncio.to_thread(lambda: [hashed_vector(text) for text in texts])
    return [hashed_vector(text) for text in texts]


def hashed_vector(text: str) -> list[float]:
    """Return the unit vector of one text."""
    sums = [0.0] * DIMENSIONS
    for word in _WORD.findall(text.lower()):
        _add(sums, word, WORD_WEIGHT)
        padded = f"^{word}$"
        for start in range(len(padded) - 2):
            _add(sums, padded[start : start + 3], 1.0)
    length = math.sqrt(sum(value * value for value in sums))
    if length == 0:
        return [1.0, *[0.0] * (DIMENSIONS - 1)]
    return [value / length for value in sums]


def _add(sums: list[float], feature: str, weight: float) -> None:
    digest = blake2b(feature.encode(errors="surrogatepass"), digest_size=2).digest()
    sums[digest[0] % DIMENSIONS] += weight if digest[1] & 1 else -weight
