"""The log that seals: what it writes, what it shows with the key, without it, and afterwards."""

from dataclasses import replace

import pytest

from agentos.domain.errors import DependencyUnavailableError, InternalError
from agentos.domain.log import Commit, make_commit
from agentos.domain.run.events import Output
from agentos.domain.run.run import Run
from tests.domain.given import T0, Ids, moment, queued
from tests.infra.privacy.given import KEY, Process

WORD = b"zanzibar"


def of_a_run(sealed: str = KEY) -> tuple[Commit, Commit, Commit]:
    """Return three commits of one run: its creation, its answer, a second run's cancellation."""
    ids = Ids()
    run = queued(ids, text="zanzibar")
    run.start("wrk_1", moment(T0, ids))
    run.complete(Output(text="zanzibar"), moment(T0, ids))
    last = run.collect()
    first = Run(run.ref)
    first.create("agt_a", run.created, moment(T0, Ids()))
    canceled = queued(Ids(500))
    canceled.request_cancel("usr_a", None, moment(T0))
    canceled.finish_cancel(moment(T0))
    return (
        make_commit(run.ref, first.collect(), ids, sealed=sealed),
        make_commit(run.ref, last, ids, sealed=sealed),
        make_commit(run.ref, canceled.collect(), ids, sealed=sealed),
    )


async def test_content_is_sealed_in_the_log_and_shown_by_it() -> None:
    here = Process()
    await here.keys.make("tnt_a", KEY)
    first, last, _ = of_a_run()
    at = await here.log.append(first, expected=0)
    await here.log.append(last, expected=at)
    stored = await here.raw.read(first.ref)
    assert all(WORD not in record.body and record.sealed == KEY for record in stored)
    shown = await here.log.read(first.ref)
    assert [record.body for record in shown] == [first.body, last.body]
    assert [record.stored for record in shown] == [record.body for record in stored]
    assert all(record.readable for record in shown)
    (found,) = await here.log.last_of_kind("run")
    assert [found, found] == [await here.log.last(first.ref), stored[-1]]
    tail = here.log.tail(after=0)
    assert [r.body for r in (await anext(tail)).records] == [first.body, last.body]
    await tail.aclose()  # type: ignore[attr-defined]  # a generator


async def test_a_commit_without_a_key_passes_as_it_is() -> None:
    here = Process()
    first, _, _ = of_a_run(sealed="")
    await here.log.append(first, expected=0)
    (record,) = await here.log.read(first.ref)
    assert record == (await here.raw.read(first.ref))[0]
    assert (record.body, record.stored) == (first.body, None)


async def test_the_same_commit_sent_again_is_the_same_bytes() -> None:
    here = Process()
    await here.keys.make("tnt_a", KEY)
    first, _, _ = of_a_run()
    other = Process(store=here.store)
    await here.log.append(first, expected=0)
    await other.log.append(first, expected=0)
    assert (await here.raw.read(first.ref))[0].body == (await other.raw.read(first.ref))[0].body
    assert await here.log.append(first, expected=0) == 1


async def test_a_run_that_was_begun_sealed_is_sealed_whoever_forgets_it() -> None:
    writer, other = Process(), Process()
    other.raw = writer.raw
    other = Process(store=writer.store, raw=writer.raw)
    await writer.keys.make("tnt_a", KEY)
    first, last, _ = of_a_run()
    at = await writer.log.append(first, expected=0)
    await other.log.read(first.ref)
    await other.log.append(replace(last, sealed=""), expected=at)
    assert all(WORD not in record.body for record in await writer.raw.read(first.ref))


async def test_after_the_erasure_it_shows_the_marker_in_every_process() -> None:
    here = Process()
    other = Process(store=here.store, raw=here.raw)
    await here.keys.make("tnt_a", KEY)
    first, last, _ = of_a_run()
    at = await here.log.append(first, expected=0)
    await here.log.append(last, expected=at)
    assert all(record.readable for record in await other.log.read(first.ref))
    assert await here.keys.destroy("tnt_a", KEY)
    other.now += 0.01  # so long it may hold a key without a look
    for process in (here, other):
        shown = await process.log.read(first.ref)
        assert not any(record.readable for record in shown)
        assert all(b"[erased]" in record.body for record in shown)
        run = Run(first.ref).fold(shown)
        assert (run.is_readable, run.sealed) == (False, KEY)
        assert run.output == Output(text="[erased]", erased=True)
        view = Run(first.ref).fold(await here.raw.read(first.ref)).view()
        assert (await process.log.open_view("tnt_a", view))["output"] == run.view()["output"]


async def test_content_after_the_erasure_is_written_for_nobody() -> None:
    here = Process()
    await here.keys.make("tnt_a", KEY)
    first, last, _ = of_a_run()
    at = await here.log.append(first, expected=0)
    await here.keys.destroy("tnt_a", KEY)
    await here.log.append(last, expected=at)
    stored = (await here.raw.read(first.ref))[-1]
    assert WORD not in stored.body
    assert b"[erased]" in (await here.log.read(first.ref))[-1].body


async def test_without_its_key_content_is_shown_sealed_and_worked_on_by_nobody() -> None:
    here, lost = Process(), Process()
    lost = Process(raw=here.raw)
    worker = Process(raw=here.raw, needs_keys=True)
    await here.keys.make("tnt_a", KEY)
    first, last, canceled = of_a_run()
    at = await here.log.append(first, expected=0)
    (stored,) = await here.raw.read(first.ref)
    (shown,) = await lost.log.read(first.ref)
    assert (shown.body, shown.readable) == (stored.body, False)
    view = {"output": {"type": "text", "text": "x", "sealed": f"{KEY}/evt_1"}, "error": None}
    assert await lost.log.open_view("tnt_a", view) == view
    with pytest.raises(DependencyUnavailableError):
        await worker.log.read(first.ref)
    with pytest.raises(DependencyUnavailableError):
        await lost.log.append(last, expected=at)
    await lost.log.append(canceled, expected=at)  # no content: it can be stopped


async def test_a_body_that_was_changed_is_not_shown_as_content() -> None:
    here, other = Process(), Process()
    await here.keys.make("tnt_a", KEY)
    first, _, _ = of_a_run()
    await here.log.append(first, expected=0)
    (stored,) = await here.raw.read(first.ref)
    await other.keys.make("tnt_a", KEY)
    with pytest.raises(InternalError):
        await other.log.open(stored)


async def test_headers_alone_are_not_opened() -> None:
    here = Process()
    await here.keys.make("tnt_a", KEY)
    first, _, _ = of_a_run()
    await here.log.append(first, expected=0)
    tail = here.log.tail(after=0, headers_only=True)
    (record,) = (await anext(tail)).records
    assert (record.body, record.sealed, record.stored) == (b"", KEY, None)
    await tail.aclose()  # type: ignore[attr-defined]  # a generator
