"""What is open at a start: whatever the read model knows, the log's headers say the rest."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentos.domain.errors import AgentOSError, DependencyUnavailableError
from agentos.domain.federation.forward import (
    ForwardAccepted,
    ForwardFailed,
    ForwardRequested,
    forward_ref,
)
from agentos.domain.federation.remote import EventsCopied, RemoteEnded, RunLinked, remote_ref
from agentos.domain.log import Commit
from agentos.domain.run.run import run_ref
from agentos.domain.subjects import StreamRef
from agentos.federation.parts import OpenWork, Ports
from agentos.federation.taking_up import find_open_work
from agentos.infra.memory.log import MemoryLog

FORWARDS = [forward_ref(t, f"fwd_{n}") for t in ("tnt_a", "tnt_b") for n in range(3)]
COPIES = [remote_ref(t, f"run_{n}") for t in ("tnt_a", "tnt_b") for n in range(3)]
OPEN = {ForwardRequested.TYPE, RunLinked.TYPE, EventsCopied.TYPE}
steps = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(FORWARDS),
            st.sampled_from(
                [(t.TYPE,) for t in (ForwardRequested, ForwardAccepted, ForwardFailed)]
            ),
        ),
        st.tuples(
            st.sampled_from(COPIES),
            st.sampled_from(
                [(RunLinked.TYPE,), (EventsCopied.TYPE,), (EventsCopied.TYPE, RemoteEnded.TYPE)]
            ),
        ),
        st.just((run_ref("tnt_a", "run_0"), ("agentos.run.started",))),
    ),
    max_size=30,
)
Step = tuple[StreamRef, tuple[str, ...]]


class Figures:
    """A read model that has the log up to a place."""

    def __init__(self, work: OpenWork | AgentOSError) -> None:
        self._work = work

    async def by_peer(self) -> list[Any]:
        """Say nothing."""
        return []

    async def open_work(self) -> OpenWork:
        """Return what is open there."""
        if isinstance(self._work, AgentOSError):
            raise self._work
        return self._work


def truth(history: Sequence[Step], refs: Sequence[StreamRef]) -> set[StreamRef]:
    """Return which of the aggregates are open behind a history."""
    lasts = {ref: types[-1] for ref, types in history}
    return {ref for ref in refs if lasts.get(ref) in OPEN}


async def a_log(history: Sequence[Step]) -> MemoryLog:
    """Return a log of that history."""
    log, places = MemoryLog(), dict[StreamRef, int]()
    for number, (ref, types) in enumerate(history, 1):
        commit = Commit(ref, f"cmt_{number}", number, types, b"\n".join([b"{}"] * len(types)))
        places[ref] = await log.append(commit, expected=places.get(ref, 0))
    return log


def ports(log: MemoryLog, work: OpenWork | AgentOSError | None) -> Ports:
    """Return what the search works with."""
    figures = None if work is None else Figures(work)
    return cast("Ports", SimpleNamespace(log=log, peering=SimpleNamespace(figures=figures)))


@settings(deadline=None)
@given(steps, st.integers(0, 30), st.booleans())
async def test_the_read_models_place_does_not_matter(
    history: list[Step], place: int, has_copies_later: bool
) -> None:
    place = min(place, len(history))
    later = len(history) if has_copies_later else place
    known = OpenWork(place, truth(history[:place], FORWARDS), truth(history[:later], COPIES))
    found = await find_open_work(ports(await a_log(history), known))
    assert found.forwards == truth(history, FORWARDS)
    assert found.copies == truth(history, COPIES)


REQUESTED: Step = (FORWARDS[0], (ForwardRequested.TYPE,))
LINKED: Step = (COPIES[0], (RunLinked.TYPE,))


@pytest.mark.parametrize(
    "work",
    [
        None,
        DependencyUnavailableError("no", dependency="postgres"),
        OpenWork(99, {FORWARDS[1]}, {COPIES[1]}),  # of a log that is not this one
    ],
)
async def test_without_a_read_model_the_whole_log_is_looked_through(
    work: OpenWork | AgentOSError | None,
) -> None:
    found = await find_open_work(ports(await a_log([REQUESTED, LINKED]), work))
    assert (found.forwards, found.copies) == ({FORWARDS[0]}, {COPIES[0]})


async def test_bodies_are_not_asked_for() -> None:
    log = await a_log([REQUESTED, LINKED])
    asked: list[bool] = []
    real = log.tail

    def tail(**options: Any) -> Any:
        asked.append(options["headers_only"])
        return real(**options)

    log.tail = tail  # type: ignore[method-assign]
    await find_open_work(ports(log, OpenWork(2)))
    assert asked == [True, True]
