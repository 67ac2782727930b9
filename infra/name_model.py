"""The model behind `names`: a BERT that labels tokens, run by onnxruntime on the processor."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it has no types
from tokenizers import Tokenizer

from agentos.domain.policy.names import Name

# The model is best in windows of about this many characters; they overlap, so that no name
# lies on a border.
WINDOW: Final = 480
OVERLAP: Final = 64
LEAST: Final = 0.5
PERSON: Final = frozenset({"GIVEN_NAME", "SURNAME"})
PLACE: Final = frozenset({"STREET_NAME", "SECONDARY_ADDRESS", "CITY", "STATE"})
NUMBERS: Final = frozenset({"BUILDING_NUMBER", "ZIP_CODE"})
BETWEEN: Final = frozenset(" \t-,.'\u2019/")
Token = tuple[str, int, int]  # label, start, end


class NameModel:
    """Finds the names in a text."""

    def __init__(self, folder: Path) -> None:
        """Load the model, some 15 MB, and its vocabulary."""
        config = json.loads((folder / "config.json").read_text())
        self._labels = [config["id2label"][str(n)] for n in range(len(config["id2label"]))]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(config["max_position_embeddings"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # others use these cores too
        self._session = onnxruntime.InferenceSession(
            str(folder / "onnx" / "model_q4.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def names(self, text: str) -> list[Name]:
        """Return the names in a text, in order, none over another."""
        clean = text.encode(errors="replace").decode()
        found: set[Token] = set()
        for start in _starts(clean):
            found.update(self._tokens(clean, start, min(len(clean), start + WINDOW)))
        return list(_joined(clean, sorted(found, key=lambda token: token[1:])))

    def _tokens(self, text: str, begin: int, until: int) -> Iterator[Token]:
        encoded = self._tokenizer.encode(text[begin:until])
        if encoded.overflowing and until - begin > OVERLAP:  # scripts of many tokens a letter
            middle, half = (begin + until) // 2, OVERLAP // 4
            yield from self._tokens(text, begin, middle + half)
            yield from self._tokens(text, middle - half, until)
            return
        ids = np.array([encoded.ids], dtype=np.int64)
        fed = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        scores: Any = self._session.run(None, fed)[0]
        likely = np.exp(scores[0] - scores[0].max(-1, keepdims=True))
        likely /= likely.sum(-1, keepdims=True)
        best = likely.argmax(-1)
        for at, (start, end) in enumerate(encoded.offsets):
            label = self._labels[int(best[at])]
            if end > start and label != "O" and float(likely[at, best[at]]) >= LEAST:
                yield label[2:], begin + start, begin + end


def _starts(text: str) -> range:
    return range(0, max(1, len(text) - OVERLAP), WINDOW - OVERLAP)


def _joined(text: str, tokens: Sequence[Token]) -> Iterator[Name]:
    """Return what stands together as one name; a number alone is no place."""
    at = 0
    while at < len(tokens):
        label, start, end = tokens[at]
        kind = _kind(label)
        labels = {label}
        at += 1
        while at < len(tokens) and _kind(tokens[at][0]) == kind:
            between = text[end : tokens[at][1]]
            if len(between) > 2 or not BETWEEN.issuperset(between):
                break
            labels.add(tokens[at][0])
            end = max(end, tokens[at][2])
            at += 1
        if kind is not None and not labels <= NUMBERS:
            yield Name(kind, *_whole_words(text, start, end))


def _kind(label: str) -> str | None:
    if label in PERSON:
        return "person"
    return "location" if label in PLACE or label in NUMBERS else None


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a span as far as its words go: half a name is as good as a name."""
    while start > 0 and text[start - 1].isalnum() and text[start].isalnum():
        start -= 1
    while end < len(text) and text[end].isalnum() and text[end - 1].isalnum():
        end += 1
    return start, end
