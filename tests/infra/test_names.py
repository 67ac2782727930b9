"""The finder of names by the model in the package: real weights, no network."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentos.domain.errors import PolicyBlockedError
from agentos.domain.policy.names import Name
from agentos.infra import names as module
from agentos.infra.names import MAX_CHARACTERS, ModelNames, installed_names


@pytest.fixture(scope="module")
def names() -> ModelNames:
    found = installed_names()
    assert found is not None, "`make install` installs the model"
    return found


def told(names: ModelNames, text: str) -> list[tuple[str, str]]:
    return [(kind, text[start:end]) for kind, start, end in names.find(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "My name is Anna Schmidt and I live in Berlin, Hauptstrasse 12.",
            [("person", "Anna Schmidt"), ("location", "Berlin, Hauptstrasse 12")],
        ),
        (
            "Please write to John Smith in New York about the invoice.",
            [("person", "John Smith"), ("location", "New York")],
        ),
        ("Ask Siobhán O'Connor-Nguyen about it.", [("person", "Siobhán O'Connor-Nguyen")]),
        ("The function returns None if the list is empty.", []),
        ("Summarise the quarterly report for the board.", []),
        ("", []),
        ("object", []),
    ],
)
def test_persons_and_places(names: ModelNames, text: str, found: list[tuple[str, str]]) -> None:
    assert told(names, text) == found


def test_a_long_text_is_searched_to_its_end(names: ModelNames) -> None:
    filler = "The report is about numbers and how they grew over the year. "
    text = filler * 30 + "It was written by John Smith in New York." + filler * 3
    assert told(names, text) == [("person", "John Smith"), ("location", "New York")]


def test_a_name_on_the_border_of_what_the_model_sees_is_one_name(names: ModelNames) -> None:
    for before in range(400, 500, 9):
        text = "x " * (before // 2) + "please write to John Smith today."
        assert ("person", "John Smith") in told(names, text)


def test_scripts_of_many_tokens_a_letter_are_searched_whole(names: ModelNames) -> None:
    text = "안녕하세요 " * 70 + "John Smith"
    assert ("person", "John Smith") in told(names, text)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_spans_in_it(text: str) -> None:
    found = installed_names()
    assert found is not None
    shared = _shared(found)
    last = 0
    for kind, start, end in shared.find(text):
        assert kind in ("person", "location")
        assert last <= start < end <= len(text)
        last = end


_FOUND: list[ModelNames] = []


def _shared(found: ModelNames) -> ModelNames:
    """Return one finder for all examples: it loads once."""
    if not _FOUND:
        _FOUND.append(found)
    return _FOUND[0]


def test_half_a_surrogate_is_a_text_like_any(names: ModelNames) -> None:
    assert ("person", "John Smith") in told(names, "\ud800 write to John Smith today")


async def test_what_was_prepared_is_only_looked_up(names: ModelNames) -> None:
    text = "Write to Jane Miller in Chicago, please."
    ran = []
    await names.prepare(["warm up, please, John Smith"])
    model = names._loaded()
    once = model.names

    def counted(text: str) -> list[Name]:
        ran.append(text)
        return once(text)

    model.names = counted  # type: ignore[method-assign]  # counts
    try:
        await asyncio.gather(*(names.prepare([text, "object"]) for _ in range(5)))
        assert told(names, text) == [("person", "Jane Miller"), ("location", "Chicago")]
    finally:
        model.names = once  # type: ignore[method-assign]
    assert ran == [text]


async def test_more_than_anybody_could_wait_for_is_refused(names: ModelNames) -> None:
    with pytest.raises(PolicyBlockedError, match="no more than"):
        await names.prepare(["a b " * (MAX_CHARACTERS // 8), "c d " * (MAX_CHARACTERS // 4)])


def test_no_text_is_kept(names: ModelNames) -> None:
    names.find("A secret about John Smith")
    assert all(isinstance(key, bytes) and len(key) == 32 for key in names._known)


def test_without_the_extra_there_is_no_finder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "LIBRARIES", ("no_such_library",))
    assert installed_names() is None
    monkeypatch.undo()
    monkeypatch.setattr(module, "PACKAGE", "no-such-package")
    assert installed_names() is None
    monkeypatch.undo()
    monkeypatch.setattr(module, "FOLDER", "no/such/folder")
    assert installed_names() is None
