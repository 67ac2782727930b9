"""Which forwards and copies are open: rows that come with the intent and go with the result."""

from agentos.domain.auth import PolicyContext
from agentos.domain.envelope import Event
from agentos.domain.federation.forward import Forward, ForwardRequested, forward_ref
from agentos.domain.federation.remote import RemoteRun, RunLinked, remote_ref
from agentos.domain.log import Recorded
from agentos.domain.run.events import ErrorInfo
from agentos.projections.open_forwards.queries import open_forwards
from agentos.projections.queries import Pool
from agentos.projections.remote_runs.queries import get_remote_run, open_copies
from tests.domain.given import ANNA, T0, moment, written
from tests.projections.test_writer import fresh

ERROR = ErrorInfo(code="forward_failed", message="no", retryable=True)
LINKED = RunLinked(
    stack_id="stk_b",
    forward_id="fwd_1",
    agent_id="agt_a",
    events_url="http://b/v1/runs/run_1/events",
    status="queued",
    created_at="2026-11-21T10:15:36.121Z",
    run_options={},
)


def requested(name: str) -> ForwardRequested:
    return ForwardRequested(
        stack_id="stk_b",
        agent_id="agt_a",
        run_request={},
        selector={},
        idempotency_key=name,
        principal=ANNA,
        scopes=[],
        policy_context=PolicyContext(),
        attempt=1,
    )


class History:
    """Commits of forwards and copies, one position after the other."""

    def __init__(self) -> None:
        self.forwards: dict[str, Forward] = {}
        self.position = 0

    def _written(self, aggregate: Forward | RemoteRun, events: list[Event]) -> Recorded:
        self.position += 1
        record = written(aggregate, events, self.position)
        aggregate.fold([record])
        return record

    def request(self, name: str) -> Recorded:
        forward = self.forwards.setdefault(name, Forward(forward_ref("tnt_a", name)))
        return self._written(forward, [*forward.request(requested(name), moment(T0))])

    def accept(self, name: str) -> Recorded:
        forward = self.forwards[name]
        return self._written(forward, [*forward.accept("run_1", "http://b", "queued", moment(T0))])

    def fail(self, name: str) -> Recorded:
        forward = self.forwards[name]
        return self._written(forward, [*forward.fail(ERROR, moment(T0))])

    def link(self, run_id: str, **said: str) -> Recorded:
        remote = RemoteRun(remote_ref("tnt_a", run_id))
        linked = LINKED.model_copy(update=said)
        return self._written(remote, [*remote.link(linked, moment(T0))])


async def test_a_row_comes_with_the_intent_and_goes_with_the_result(dsn: str, pool: Pool) -> None:
    conn, writer = await fresh(dsn)
    then = History()
    async with conn:
        assert await open_forwards(pool) == (0, [])
        await writer.write([then.request("fwd_1"), then.request("fwd_2"), then.request("fwd_3")])
        assert await open_forwards(pool) == (3, [("tnt_a", f"fwd_{n}") for n in (1, 2, 3)])
        await writer.write([then.accept("fwd_1"), then.fail("fwd_2")])
        assert await open_forwards(pool) == (5, [("tnt_a", "fwd_3")])
        # asked for again, and done within one batch
        await writer.write([then.request("fwd_2"), then.request("fwd_4"), then.accept("fwd_4")])
        place, found = await open_forwards(pool)
        assert (place, sorted(found)) == (8, [("tnt_a", "fwd_2"), ("tnt_a", "fwd_3")])


async def test_a_copy_is_open_until_it_is_whole(dsn: str, pool: Pool) -> None:
    conn, writer = await fresh(dsn)
    then = History()
    async with conn:
        await writer.write([then.link("run_1")])
        assert await open_copies(pool) == (1, [("tnt_a", "run_1")])
        await conn.execute("UPDATE remote_runs SET has_ended = true")
        assert await open_copies(pool) == (1, [])


async def test_what_an_earlier_version_took_over_from_a_peer_does_not_stop_it(
    dsn: str, pool: Pool
) -> None:
    conn, writer = await fresh(dsn)
    then = History()
    async with conn:
        await writer.write([then.link("run_1", status="a\x00b", created_at="\x00")])
        row = await get_remote_run(pool, "tnt_a", "run_1")
        assert row is not None
        assert (row.status, row.view()["status"]) == ("queued", "queued")
