"""A data subject: its key counts up with every erasure, and its id is nobody's name."""

import pytest

from agentos.domain.envelope import Payload
from agentos.domain.privacy.subject import (
    SUBJECT_ID,
    DataSubject,
    SubjectErased,
    subject_id_of,
    subject_of,
    subject_ref,
)
from tests.domain.given import created, moment

SUB = subject_id_of("tnt_a", "usr_ida")


def subject() -> DataSubject:
    return DataSubject(subject_ref("tnt_a", SUB))


def after(one: DataSubject, *steps: str) -> list[Payload]:
    said: list[Payload] = []
    for step in steps:
        events = one.erase(moment()) if step == "erase" else one.complete({"runs": 1}, moment())
        for event in events:
            one.evolve(event)
        said += [event.payload for event in events]
    return said


def test_the_first_erasure_ends_the_first_key() -> None:
    one = subject()
    assert (one.key_id, one.erased_keys()) == (f"{SUB}-1", [])
    assert after(one, "erase") == [SubjectErased(subject_id=SUB, generation=1)]
    assert (one.key_id, one.erased_keys(), one.is_pending) == (f"{SUB}-2", [f"{SUB}-1"], True)


def test_an_erasure_in_hand_is_not_decided_twice_and_completed_once() -> None:
    one = subject()
    assert len(after(one, "erase", "erase", "complete", "complete")) == 2
    assert (one.is_pending, one.report) == (False, {"runs": 1})


def test_what_came_later_is_erased_by_the_next() -> None:
    one = subject()
    after(one, "erase", "complete", "erase", "complete")
    assert (one.key_id, one.erased_keys()) == (f"{SUB}-3", [f"{SUB}-1", f"{SUB}-2"])


def test_nothing_is_completed_that_was_not_decided() -> None:
    assert after(subject(), "complete") == []


@pytest.mark.parametrize("name", ["usr_ida", "Ida Example", "ida@example.com", "x" * 256])
def test_an_id_says_nothing_of_the_name_and_differs_by_tenant(name: str) -> None:
    found = subject_id_of("tnt_a", name)
    assert SUBJECT_ID.match(found)
    assert name not in found
    assert found != subject_id_of("tnt_b", name)
    assert subject_id_of("tnt_a", found) == found


def test_a_run_is_of_its_user_else_of_its_principal() -> None:
    run = created()
    assert subject_of(run) == "usr_anna"
    named = run.model_copy(update={"context": {**run.context, "user_id": "usr_ida"}})
    assert subject_of(named) == "usr_ida"
