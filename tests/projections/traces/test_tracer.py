"""The log followed: every span once in quiet times, at least once in others."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import Origin
from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.log import Recorded, make_commit
from agentos.domain.models.catalog import Catalog
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate
from agentos.domain.run.run import run_ref
from agentos.domain.subjects import StreamRef
from agentos.domain.tracing.span import Sent, Span
from agentos.domain.usage.usage import Usage, UsageRecorded, usage_ref
from agentos.infra.clock import SystemClock
from agentos.infra.memory.log import MemoryLog
from agentos.infra.memory.places import MemoryPlaces
from agentos.projections.traces.delivery import Delivery
from agentos.projections.traces.mapper import SpanMapper
from agentos.projections.traces.metrics import TracerMetrics
from agentos.projections.traces.tracer import NAME, Tracer
from tests.domain.given import TRACE, Ids
from tests.domain.replay.recorder import Recorder

YEARS_MS = 10**12


class ListSink:
    """Keeps what it is sent; `is_open` says whether it takes anything."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.is_open = True
        self.asked = 0

    async def send(self, spans: Sequence[Span]) -> Sent:
        """Take a batch."""
        self.asked += 1
        if self.is_open:
            self.spans += spans
        return Sent("sent" if self.is_open else "away")


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds that other tasks bring about."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - a sink's or a position's growth
            await asyncio.sleep(0.001)


class World:
    """A log, a place and a sink that outlive a tracer."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.places = MemoryPlaces()
        self.sink = ListSink()
        self.metrics = TracerMetrics()
        self.ids = Ids()

    async def write(self, made: Recorder, run_id: str, upto: int | None = None) -> None:
        """Write the commits of a recorded run, under an id of its own."""
        position = 0
        ref = run_ref("tnt_a", run_id)
        last = await self.log.last(ref)
        done = len(await self.log.read(ref))
        position = 0 if last is None else last.position
        for record in made.records[done:upto]:
            body = record.body.replace(b'"run_1"', f'"{run_id}"'.encode())
            commit = replace(record, ref=ref, body=body, commit_id=self.ids("cmt"))
            position = await self.log.append(commit, expected=position)

    async def call(self, *requests: str) -> None:
        """Write usage."""
        ref = usage_ref("tnt_a")
        usage = Usage(ref).fold(await self.log.read(ref))
        calls = [
            (
                UsageRecorded(
                    request_id=r,
                    operation="chat",
                    model_ref="a/m",
                    backend="a",
                    model="m",
                    status="ok",
                    ended_ms=SystemClock().now_ms(),
                    parent_span_id="b7ad6b7169203331",
                ),
                Origin(TRACE, SYSTEM_PRINCIPAL),
            )
            for r in requests
        ]
        events = usage.record(calls, self.at())
        await self.log.append(make_commit(ref, events, self.ids), expected=usage.position)

    async def catalog(self, provider: str) -> None:
        """Publish a catalog."""
        catalog = CatalogAggregate(CATALOG_REF).fold(await self.log.read(CATALOG_REF))
        models = [{"model_id": "a/m", "provider": provider}]
        document = Catalog.model_validate(
            {"backends": [{"name": "a", "kind": "openai"}], "models": models}
        )
        commit = make_commit(CATALOG_REF, catalog.publish(document, "api", self.at()), self.ids)
        await self.log.append(commit, expected=catalog.position)

    def at(self) -> Moment:
        """Return now."""
        return Moment(SystemClock().now_ms(), self.ids, Origin(TRACE, SYSTEM_PRINCIPAL))

    def tracer(self, **more: object) -> Tracer:
        """Return a tracer that has not begun."""
        delivery = Delivery(
            self.sink, SystemClock(), self.metrics, max_age_ms=YEARS_MS, pause_s=0.001
        )
        return Tracer(self.log, self.places, delivery, self.metrics, pace_s=0.001, **more)  # type: ignore[arg-type]

    @asynccontextmanager
    async def tracing(self, tracer: Tracer | None = None) -> AsyncIterator[Tracer]:
        """Run a tracer, from behind what is in the log at its first start."""
        tracer = tracer or self.tracer()
        task = asyncio.create_task(tracer.run())
        try:
            async with asyncio.timeout(30):
                await tracer.caught_up.wait()
            yield tracer
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, count: int) -> list[str]:
        """Wait until so many spans came; returns their names."""
        await eventually(lambda: len(self.sink.spans) >= count)
        return [span.name for span in self.sink.spans]

    async def quiet(self, tracer: Tracer) -> None:
        """Wait until a tracer has taken the whole log."""
        head = await self.log.head()
        await eventually(lambda: tracer.position == head)

    def runs(self) -> set[object]:
        """Return the runs that spans came of."""
        return {span.attributes.get("agentos.run.id") for span in self.sink.spans}

    def dropped(self, reason: str) -> float | None:
        """Return how many spans were dropped for a reason."""
        return self.metrics.registry.get_sample_value(
            "agentos_otel_spans_dropped_total", {"reason": reason}
        )


def whole() -> Recorder:
    return Recorder().start().model("", ["tool.echo"]).tools(["x"]).model()


NAMES = ["step builtin/echo", "execute_tool tool.echo", "step builtin/echo", "invoke_agent agt_a"]


async def test_the_first_start_begins_at_the_logs_end() -> None:
    world = World()
    await world.write(whole(), "run_before")
    async with world.tracing() as tracer:
        await world.write(whole(), "run_1")
        assert await world.until(4) == NAMES
        await world.quiet(tracer)
    assert len(world.sink.spans) == 4
    assert world.places.kept == {NAME: await world.log.head()}


async def test_a_run_that_began_before_is_read_from_the_log() -> None:
    world = World()
    await world.write(whole(), "run_1", upto=3)
    async with world.tracing():
        await world.write(whole(), "run_1")
        names = await world.until(3)
    assert names == NAMES[1:]  # the first step had ended before
    assert world.sink.spans[-1].attributes["gen_ai.usage.input_tokens"] == 6


async def test_a_restart_goes_on_where_it_was() -> None:
    world = World()
    async with world.tracing():
        await world.write(whole(), "run_1", upto=3)
        await world.until(1)
    await world.write(whole(), "run_1")
    async with world.tracing() as tracer:
        await world.until(4)
        await world.quiet(tracer)
    assert [span.name for span in world.sink.spans] == NAMES
    assert len({span.span_id for span in world.sink.spans}) == 4


async def test_an_outage_of_the_collector_loses_nothing() -> None:
    world = World()
    async with world.tracing() as tracer:
        world.sink.is_open = False
        for number in range(20):
            await world.write(whole(), f"run_{number}")
        await eventually(lambda: world.sink.asked >= 3)
        assert (tracer.position or 0) < await world.log.head()
        world.sink.is_open = True
        await world.until(80)
    assert len({span.attributes["agentos.run.id"] for span in world.sink.spans}) == 20


async def test_who_ends_while_the_collector_is_away_sends_it_later() -> None:
    world = World()
    async with world.tracing():
        world.sink.is_open = False
        await world.write(whole(), "run_1")
        await eventually(lambda: world.sink.asked > 0)
    world.sink.is_open = True
    async with world.tracing():
        assert await world.until(4) == NAMES


async def test_open_runs_beyond_the_bound_are_read_again() -> None:
    world = World()
    mapper = SpanMapper(world.log, most_open=2)
    async with world.tracing(world.tracer(mapper=mapper)):
        for number in range(6):
            await world.write(whole(), f"run_{number}", upto=3)
        for number in range(6):
            await world.write(whole(), f"run_{number}")
        await world.until(24)
        assert len(mapper._runs) == 0
    assert len({span.attributes["agentos.run.id"] for span in world.sink.spans}) == 6


class Flaky(MemoryLog):
    """A log that cannot be read now and then."""

    fails = 0

    async def read(self, ref: StreamRef, *, after: int = 0) -> list[Recorded]:
        """Fail as often as it is told."""
        if self.fails and ref.kind == "run":
            self.fails -= 1
            raise DependencyUnavailableError("no", dependency="nats")
        return await super().read(ref, after=after)


async def test_what_was_read_and_not_sent_when_the_log_broke_is_read_again() -> None:
    world = World()
    log = world.log = Flaky()
    await world.write(whole(), "run_b", upto=3)
    async with world.tracing() as tracer:
        # One batch: a whole run whose spans wait, then one that must be read from the log.
        await world.write(whole(), "run_a")
        await world.write(whole(), "run_b")
        log.fails = 1
        await world.until(7)
        assert log.fails == 0
        await world.quiet(tracer)
    ends = [s.attributes["agentos.run.id"] for s in world.sink.spans if "invoke" in s.name]
    assert sorted(set(map(str, ends))) == ["run_a", "run_b"]


async def test_a_commit_that_cannot_be_read_stops_nobody() -> None:
    world = World()
    async with world.tracing():
        made = whole()
        made.records[2] = replace(made.records[2], body=b'{"event":{"type":1}}' * 1)
        await world.write(made, "run_bad")
        await world.write(whole(), "run_1")
        await eventually(
            lambda: any(s.attributes["agentos.run.id"] == "run_1" for s in world.sink.spans)
        )
    assert world.dropped("unreadable") == 1


async def test_calls_have_the_provider_of_the_catalog_that_holds() -> None:
    world = World()
    await world.catalog("mistral_ai")
    async with world.tracing():
        await world.call("req_1", "req_2")
        assert await world.until(2) == ["chat a/m", "chat a/m"]
        await world.catalog("groq")
        await world.call("req_3")
        await world.until(3)
    providers = [span.attributes["gen_ai.provider.name"] for span in world.sink.spans]
    assert providers == ["mistral_ai", "mistral_ai", "groq"]


async def test_a_log_that_was_put_back_is_begun_at_its_end() -> None:
    world = World()
    world.places.kept[NAME] = 1000
    await world.write(whole(), "run_before")
    async with world.tracing():
        await world.write(whole(), "run_1")
        await world.until(4)
    assert {span.attributes["agentos.run.id"] for span in world.sink.spans} == {"run_1"}


async def test_how_far_behind_it_is() -> None:
    world = World()
    async with world.tracing() as tracer:
        await tracer.note_lag()
        assert world.metrics.registry.get_sample_value("agentos_otel_lag_events") == 0
        world.sink.is_open = False
        await world.write(whole(), "run_1")
        await eventually(lambda: world.sink.asked > 0)
        await tracer.note_lag()
        lag = world.metrics.registry.get_sample_value("agentos_otel_lag_events")
        assert lag is not None
        assert lag > 0
