"""The sentence encoder all-MiniLM-L6-v2 (a BERT of six layers) in numpy."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer

Array = NDArray[np.float32]

MAX_TOKENS: Final = 256


class MiniLM:
    """Texts as unit vectors: the mean over a text's tokens of the last layer."""

    def __init__(self, folder: Path) -> None:
        """Load weights and vocabulary, about 90 MB.

        From then on the process multiplies matrices in one thread: on cores that others use
        too, threads that wait for one another are many times slower for texts this short.
        """
        threadpool_limits(1, user_api="blas")  # type: ignore[no-untyped-call] # it has no types
        config = json.loads((folder / "config.json").read_text())
        self._layers: int = config["num_hidden_layers"]
        self._heads: int = config["num_attention_heads"]
        self._epsilon: float = config["layer_norm_eps"]
        self._weights: dict[str, Any] = load_file(folder / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def embed(self, text: str) -> tuple[list[float], int]:
        """Return the vector of one text, and how many tokens it was."""
        ids = self._tokenizer.encode(text.encode(errors="replace").decode()).ids
        states = self._encode(np.array(ids))
        mean = states.mean(axis=0)
        vector = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return [float(value) for value in vector], len(ids)

    def _encode(self, ids: NDArray[np.int64]) -> Array:
        weights = self._weights
        x = weights["embeddings.word_embeddings.weight"][ids]
        x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
        x = x + weights["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        for number in range(self._layers):
            layer = f"encoder.layer.{number}"
            attended = self._attend(x, f"{layer}.attention.self")
            attended = self._linear(attended, f"{layer}.attention.output.dense")
            x = self._norm(x + attended, f"{layer}.attention.output.LayerNorm")
            wide = _gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = self._norm(
                x + self._linear(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm"
            )
        return x

    def _attend(self, x: Array, name: str) -> Array:
        length, width = x.shape
        parts = (self._linear(x, f"{name}.{part}") for part in ("query", "key", "value"))
        query, key, value = (
            part.reshape(length, self._heads, -1).transpose(1, 0, 2) for part in parts
        )
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(np.float32(width // self._heads))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        joined: Array = (scores @ value).transpose(1, 0, 2).reshape(length, width)
        return joined

    def _linear(self, x: Array, name: str) -> Array:
        result: Array = x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return result

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._epsilon)
        result: Array = scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return result


def _gelu(x: Array) -> Array:
    """Return x·Φ(x); the error function by Abramowitz and Stegun 7.1.26, exact to 1.5e-7."""
    z = np.abs(x) / np.sqrt(np.float32(2))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.float32(1.061405429) * t - np.float32(1.453152027)
    for factor in (1.421413741, -0.284496736, 0.254829592):
        series = series * t + np.float32(factor)
    erf = np.sign(x) * (1 - series * t * np.exp(-z * z))
    result: Array = 0.5 * x * (1 + erf)
    return result
