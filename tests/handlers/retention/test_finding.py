"""Of any history exactly what is due goes, however often one looks in between."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentos.domain.retention.due import EndedRun, run_due_at
from agentos.domain.run.events import Output
from agentos.domain.run.run import Run, run_ref
from tests.domain.given import T0, created, moment
from tests.handlers.node import HOUR_MS
from tests.handlers.retention.world import DAY_MS, World, a_world, round_of

AGE_DAYS = 10
RUNS = st.lists(
    st.tuples(st.integers(0, 40), st.booleans(), st.booleans()), min_size=1, max_size=12
)
LOOKS = st.lists(st.integers(0, 90), min_size=1, max_size=4)


async def written(world: World, runs: list[tuple[int, bool, bool]]) -> dict[str, EndedRun | None]:
    """Write runs that each begin and end on a day, some with a key, some without an end."""
    found: dict[str, EndedRun | None] = {}
    for number, (day, is_keyed, has_ended) in enumerate(sorted(runs)):
        at = T0 + day * DAY_MS
        run = Run(run_ref("tnt_a", f"run_{number}"))
        first = created()
        if is_keyed:
            first = first.model_copy(update={"idempotency_key": f"k{number}"})
        run.create("agt_a", first, moment(at, world.node.new_id))
        await world.node.stage(run)
        if has_ended:
            run.start("wrk_1", moment(at + 1, world.node.new_id))
            run.complete(Output(text="done"), moment(at + 2, world.node.new_id))
            await world.node.stage(run)
        ended = EndedRun(at, at + 2, is_keyed) if has_ended else None
        found[run.ref.aggregate_id] = ended
    return found


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(runs=RUNS, looks=LOOKS)
def test_exactly_what_is_due_goes(runs: list[tuple[int, bool, bool]], looks: list[int]) -> None:
    async def look() -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with a_world(Path(directory)) as world:
                known = await written(world, runs)
                keeper = await world.keeper(runs=f"{AGE_DAYS}d")
                for day in sorted(looks):
                    world.clock.skew_ms = day * DAY_MS
                    now = world.clock.now_ms()
                    await world.read_by_all()
                    await round_of(keeper)
                    due = {
                        name
                        for name, run in known.items()
                        if run and run_due_at(run, AGE_DAYS * DAY_MS, 24 * HOUR_MS) <= now
                    }
                    assert set(await world.kept(list(known))) == known.keys() - due

    asyncio.run(look())
