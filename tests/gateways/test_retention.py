"""What is answered about runs whose events are gone: never 404, never nothing, never a gap."""

import pytest

from agentos.domain.aggregate import Moment, next_event
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE, Event, Origin
from agentos.domain.errors import DependencyUnavailableError, NotFoundError
from agentos.domain.log import make_commit
from agentos.domain.retention.retention import (
    RetentionOf,
    RetentionPlanned,
    Stream,
    retention_ref,
)
from agentos.domain.retention.rules import Kind
from tests.gateways.conftest import TENANT, Door, RunScript, bearer, eventually, sequences
from tests.gateways.test_runs import row_of
from tests.gateways.test_streams import streaming, until_open

DOWN = DependencyUnavailableError("PostgreSQL is gone", dependency="postgres")


class Purge:
    """Lets go of runs as retention does, step by step."""

    def __init__(
        self, door: Door, *scripts: RunScript, tenant_id: str = TENANT, kind: Kind = "runs"
    ) -> None:
        self.kind: Kind = kind
        self.door = door
        self.scripts = scripts
        self.state = RetentionOf(retention_ref(tenant_id))
        self.at = Moment(1, door.new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))

    async def plan(self) -> "Purge":
        """Say what is to go; the rows are there by then."""
        for script in self.scripts:
            key = (script.run.ref.tenant_id, script.run_id)
            self.door.reads.rows[key] = row_of(script)
        records = [r for s in self.scripts for r in await self.door.log.read(s.run.ref)]
        last = max(records, key=lambda record: record.position)
        plan = RetentionPlanned(
            plan_id="ret_1",
            kind=self.kind,
            age_ms=1,
            before="2026-11-25T10:15:36.002Z",
            streams=[Stream(kind="run", id=s.run_id, through=s.run.position) for s in self.scripts],
            items=len(self.scripts),
            commits=len(records),
            events=sum(len(record.types) for record in records),
            position=last.position,
            line=len(last.types),
            gone=dict(self.state.gone),
        )
        return await self._write([next_event(self.state, plan, self.at)])

    async def begin(self) -> "Purge":
        """Say that it goes."""
        return await self._write(self.state.begin(self.at))

    async def remove(self) -> "Purge":
        """Let it go, and say so."""
        for script in self.scripts:
            await self.door.log.purge(script.run.ref, through=script.run.position)
        return await self._write(self.state.finish(self.at))

    async def whole(self) -> "Purge":
        """Do all of it."""
        await (await (await self.plan()).begin()).remove()
        return self

    async def _write(self, events: list[Event]) -> "Purge":
        log = self.door.log
        commit = make_commit(
            self.state.ref, events, self.door.new_id, base=self.state.plan_position
        )
        await log.append(commit, expected=self.state.position)
        self.state.take(await log.read(self.state.ref, after=self.state.position))
        return self


async def heard(door: Door) -> None:
    """Wait until the gateway's tail is at the log's end."""
    head = await door.log.head()
    await eventually(lambda: (door.gateway.tail.position or 0) >= head)


async def test_a_purged_run_is_answered_from_its_row(door: Door) -> None:
    script = await door.finished()
    await Purge(door, script).whole()
    for path in ("", "/wait?timeout_ms=5000"):
        status, answer, _ = await door.call("GET", f"/v1/runs/{script.run_id}{path}")
        assert (status, answer["run"]["status"]) == (200, "completed")
        assert answer["run"]["labels"] == {"from": "row"}


async def test_its_events_are_gone_and_not_not_found(door: Door) -> None:
    script = await door.finished(steps=3)
    await Purge(door, script).whole()
    for path in ("/v1/runs/{}/events", "/v1/runs/{}/events?after_sequence=4"):
        for url in door.urls[:1]:
            status, answer, _ = await door.call("GET", url + path.format(script.run_id))
            assert (status, answer["error"]["code"]) == (410, "cursor_expired")
            assert answer["error"]["details"] == {"first_sequence": 6, "status": "completed"}
    path = f"{door.urls[2]}/v1/federation/runs/{script.run_id}/events"
    status, answer, _ = await door.call("GET", path)
    assert (status, answer["error"]["code"]) == (410, "cursor_expired")


async def test_whoever_has_seen_its_end_is_told_that_nothing_follows(door: Door) -> None:
    script = await door.finished(steps=3)
    await Purge(door, script).whole()
    for seen in (5, 6, 99):
        path = f"/v1/runs/{script.run_id}/events?after_sequence={seen}"
        status, answer, _ = await door.call("GET", path)
        assert (status, answer) == (204, {})


async def test_it_cannot_be_cancelled_or_forked(door: Door) -> None:
    script = await door.finished()
    await Purge(door, script).whole()
    door.answer("run.cancel", NotFoundError("no such run"))
    door.answer("run.fork", NotFoundError("no such run"))
    status, answer, _ = await door.call("POST", f"/v1/runs/{script.run_id}:cancel")
    assert (status, answer["error"]["code"]) == (409, "invalid_state_transition")
    assert answer["error"]["details"] == {"status": "completed"}
    body = {"from_step": 1}
    status, answer, _ = await door.call("POST", f"/v1/runs/{script.run_id}:fork", json=body)
    assert (status, answer["error"]["code"]) == (410, "cursor_expired")


CALLS = (
    ("GET", "", None),
    ("GET", "/wait", None),
    ("GET", "/events", None),
    ("POST", ":cancel", None),
    ("POST", ":fork", {"from_step": 1}),
)


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_another_tenants_is_as_one_that_never_was(
    door: Door, method: str, path: str, body: object
) -> None:
    script = await door.finished()
    await Purge(door, script).whole()
    other = door.script(tenant_id="tnt_b").stage_created().stage_end()
    await other.write()
    await Purge(door, other, tenant_id="tnt_b").whole()
    for name in ("run.cancel", "run.fork"):
        door.answer(name, NotFoundError("no such run"))
    url = f"/v1/runs/{script.run_id}{path}"
    headers = bearer(tenant_id="tnt_b")
    status, answer, _ = await door.call(method, url, json=body, headers=headers)
    never, missing, _ = await door.call(
        method, f"/v1/runs/run_never{path}", json=body, headers=headers
    )
    assert (status, never) == (404, 404)
    assert answer["error"] == missing["error"]


async def test_without_the_read_model_it_is_not_known_which_of_both(door: Door) -> None:
    script = await door.finished()
    await Purge(door, script).whole()
    door.reads.down = DOWN
    for path in ("", "/wait", "/events"):
        status, answer, _ = await door.call("GET", f"/v1/runs/{script.run_id}{path}")
        assert (status, answer["error"]["code"]) == (503, "dependency_unavailable")


async def test_a_tenants_stream_goes_on_only_if_nothing_unseen_went(door: Door) -> None:
    first, second = await door.finished(), await door.finished()
    await Purge(door, first, second).whole()
    third = await door.finished()
    last, lines = second.run.position, 3
    for cursor in (f"{first.run.position}-3", f"{last}-{lines - 1}", f"{last - 1}-99"):
        status, answer, _ = await door.call("GET", f"/v1/events?after={cursor}")
        assert (status, answer["error"]["code"]) == (410, "cursor_expired")
        assert answer["error"]["details"]["resume_after"] == f"{last}-{lines}"
    for cursor in (f"{last}-{lines}", f"{last}-99", f"{third.run.position - 1}-1"):
        async with streaming(door, f"/v1/events?after={cursor}") as reader:
            shown = [await reader.next() for _ in range(3)]
            assert [m.id for m in shown if m] == [f"{third.run.position}-{n}" for n in (1, 2, 3)]


async def test_another_tenants_retention_expires_no_cursor(door: Door) -> None:
    own = await door.finished()
    other = door.script(tenant_id="tnt_b").stage_created().stage_end()
    await other.write()
    await Purge(door, other, tenant_id="tnt_b").whole()
    async with streaming(door, "/v1/events?after=0-0") as reader:
        assert (await reader.next()).data["event"]["run_id"] == own.run_id  # type: ignore[union-attr]


async def test_a_live_stream_goes_on_over_what_it_has_shown(door: Door) -> None:
    async with streaming(door, "/v1/events") as reader:
        await until_open(door, 1)
        first = await door.finished()
        assert len([await reader.next() for _ in range(3)]) == 3
        purge = await Purge(door, first).plan()
        await heard(door)
        await (await purge.begin()).remove()
        second = await door.finished()
        shown = [await reader.next() for _ in range(3)]
        assert [m.id for m in shown if m] == [f"{second.run.position}-{n}" for n in (1, 2, 3)]


async def test_a_stream_whose_gateway_stood_still_is_told(door: Door) -> None:
    """A log in memory gives no turn to the tail: it wakes when the run is gone already."""
    async with streaming(door, "/v1/events") as reader:
        await until_open(door, 1)
        script = await door.finished()
        await Purge(door, script).whole()
        end = await reader.next()
        assert end is not None
        assert (end.event, end.data["error"]["code"]) == ("agentos.error", "cursor_expired")
        assert await reader.next() is None


async def test_a_stream_that_catches_up_over_a_purge_is_told(door: Door) -> None:
    first = await door.finished()
    for _ in range(3):
        await door.finished()
    read = door.log.tail
    purge = Purge(door, first)

    def purged_first(**how: object) -> object:
        async def batches() -> object:
            await purge.whole()
            async for batch in read(**how):  # type: ignore[arg-type]
                yield batch

        return batches()

    door.log.tail = purged_first  # type: ignore[method-assign, assignment]
    async with streaming(door, "/v1/events?after=0-0") as reader:
        end = await reader.next()
        assert end is not None
        assert (end.event, end.data["error"]["code"]) == ("agentos.error", "cursor_expired")


async def test_a_run_that_goes_while_it_is_shown_is_shown_whole_or_said_to_be_gone(
    door: Door,
) -> None:
    script = await door.finished(steps=20)
    async with streaming(door, f"/v1/runs/{script.run_id}/events") as reader:
        await Purge(door, script).whole()
        assert sequences(await reader.rest()) == list(range(1, 23))


async def test_a_copy_that_went_is_answered_from_its_row(door: Door) -> None:
    """A copy's stream is another one than the run's: here a run's stands for it."""
    script = await door.finished(steps=3)
    purge = Purge(door, script, kind="remote_runs")
    await purge.whole()
    key = (TENANT, script.run_id)
    door.reads.remote[key] = door.reads.rows.pop(key)
    status, answer, _ = await door.call("GET", f"/v1/runs/{script.run_id}")
    assert (status, answer["run"]["status"]) == (200, "completed")
    status, answer, _ = await door.call("GET", f"/v1/runs/{script.run_id}/events")
    assert (status, answer["error"]["code"]) == (410, "cursor_expired")
    async with streaming(door, "/v1/events?after=0-0") as reader:
        after = await door.finished()
        assert (await reader.next()).data["event"]["run_id"] == after.run_id  # type: ignore[union-attr]
