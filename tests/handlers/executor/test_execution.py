"""One run and its executor: what is called, when, how often, and what the log says of it."""

import asyncio

import pytest

from agentos.domain.aggregate import read_events
from agentos.domain.errors import ProviderError, ToolFailedError
from agentos.domain.log import Commit
from agentos.domain.ports import ToolNature, WorkItem
from agentos.domain.run.run import Run, run_ref
from agentos.handlers.parts import Parts
from agentos.handlers.sweep import sweep_for_ever
from tests.domain.given import types
from tests.handlers.executor.world import Executor, Models, Tool, Tools, now, until, until_final
from tests.handlers.node import Node, UnevenLog, a_node, cancel, create, settle
from tests.handlers.virtual import virtual_time


async def ready(node: Node) -> Parts:
    """Make a tenant and a handler process that sweeps."""
    await node.tenant()
    parts = await node.handlers()
    node.own(sweep_for_ever(parts))
    return parts


async def a_run(parts: Parts, **options: object) -> str:
    """Create a run and return its id."""
    run_id: str = (await create(parts, **options))["run"]["run_id"]  # type: ignore[arg-type]
    return run_id


async def names(node: Node, run_id: str) -> list[str]:
    """Return the short names of a run's events."""
    records = await node.log.read(run_ref("tnt_a", run_id))
    return types([e for r in records for e in read_events(r, Run.PAYLOADS)])


async def in_flight(made: Models | Tools) -> None:
    """Wait until a call is under way."""

    async def is_so() -> bool:
        return bool(made.made) and made.made[-1].ended is None

    await until(is_so)


@virtual_time
async def test_a_whole_run() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models, tools = Models(["tool.a"], "bye"), Tools({"tool.a": Tool(output={"x": 1})})
        Executor(node, models, tools)
        run_id = await a_run(parts)
        await until_final(node, run_id)
        run = await node.run(run_id)
        assert run.output is not None
        assert run.output.text == "bye"
        call = ["run.step.started", "model.requested", "model.completed", "run.step.completed"]
        tool = [
            "run.step.started",
            "tool.call.requested",
            "tool.call.completed",
            "run.step.completed",
        ]
        assert await names(node, run_id) == [
            "run.created",
            "run.started",
            *call,
            *tool,
            *call,
            "run.completed",
        ]
        assert await node.queue.size() == 0


@virtual_time
async def test_the_intent_is_in_the_log_before_the_call_and_the_result_behind_it() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models, tools = Models(["tool.a"], takes_s=1), Tools({"tool.a": Tool(takes_s=1)})
        Executor(node, models, tools)
        run_id = await a_run(parts)
        await in_flight(models)
        assert (await names(node, run_id))[-1] == "model.requested"
        await in_flight(tools)
        assert (await names(node, run_id))[-1] == "tool.call.requested"


@virtual_time
async def test_parallel_calls_run_side_by_side() -> None:
    async with a_node() as node:
        parts = await ready(node)
        table = {f"tool.{n}": Tool(takes_s=1) for n in "abcde"}
        models, tools = Models(list(table), "bye"), Tools(table)
        Executor(node, models, tools)
        run_id = await a_run(parts)
        assert await until_final(node, run_id) < 1.5
        assert {made.began for made in tools.made} == {tools.made[0].began}


@virtual_time
async def test_each_result_is_written_when_it_comes() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models = Models(["tool.a", "tool.b"], "bye")
        tools = Tools({"tool.a": Tool(takes_s=5), "tool.b": Tool(takes_s=1)})
        Executor(node, models, tools)
        run_id = await a_run(parts)
        await asyncio.sleep(2)
        run = await node.run(run_id)
        assert [c.tool_id for c in run.results.values()] == ["tool.b"]
        assert len(run.open_tools) == 1


NATURES: list[tuple[ToolNature, str, int]] = [
    ("idempotent", "completed", 2),
    ("check", "completed", 2),
    ("at_most_once", "failed", 1),
]


@pytest.mark.parametrize(("nature", "status", "calls"), NATURES)
def test_a_call_begun_by_a_dead_executor(nature: ToolNature, status: str, calls: int) -> None:
    @virtual_time
    async def check() -> None:
        async with a_node() as node:
            parts = await ready(node)
            models = Models(["tool.first"], ["tool.a"], "bye")
            tools = Tools({"tool.first": Tool(), "tool.a": Tool(nature, takes_s=3)})
            dead = Executor(node, models, tools)
            run_id = await a_run(parts)

            async def begun() -> bool:
                return len(tools.made) == 2

            await until(begun)
            await dead.kill()
            Executor(node, models, tools, name="wrk_2")
            assert await until_final(node, run_id) < 8
            run = await node.run(run_id)
            assert (run.status, run.attempt) == (status, 2)
            if nature == "at_most_once":
                assert run.error is not None
                assert run.error.code == "interrupted"
            times = list(tools.times().values())
            assert times == [1, calls], "a finished call is never made again"
            assert len({m.id for m in models.made}) == len(models.made)
            assert (nature == "check") == bool(tools.checked)

    check()


@virtual_time
async def test_a_check_tool_that_has_done_it_is_not_called_again() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models, tools = Models(["tool.a"], "bye"), Tools({"tool.a": Tool("check")})
        dead: list[Executor] = []

        def die(point: str) -> None:
            if point == "executor.after_tool" and len(dead) == 1:
                dead.append(dead[0])
                node.own(dead[0].kill())
                dead[0].line.up.clear()

        dead.append(Executor(node, models, tools, crash_point=die))
        run_id = await a_run(parts)
        await settle(1)
        Executor(node, models, tools, name="wrk_2")
        await until_final(node, run_id)
        assert list(tools.times().values()) == [1]
        assert len(tools.checked) == 1
        assert (await node.run(run_id)).status == "completed"


@virtual_time
async def test_a_model_call_begun_by_a_dead_executor_is_made_again_with_its_id() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models, tools = Models("bye", takes_s=2), Tools()
        dead = Executor(node, models, tools)
        run_id = await a_run(parts)
        await in_flight(models)
        await dead.kill()
        Executor(node, models, tools, name="wrk_2")
        await until_final(node, run_id)
        assert [m.id for m in models.made] == [models.made[0].id] * 2


@pytest.mark.parametrize("what", ["model", "tool"])
def test_a_cancel_stops_the_call_in_flight_and_none_starts_behind_it(what: str) -> None:
    @virtual_time
    async def check() -> None:
        async with a_node() as node:
            parts = await ready(node)
            models = Models(["tool.a", "tool.a"], "bye", takes_s=30 if what == "model" else 0.01)
            tools = Tools({"tool.a": Tool(takes_s=30)})
            Executor(node, models, tools)
            run_id = await a_run(parts)
            made: Models | Tools = models if what == "model" else tools
            await in_flight(made)
            await cancel(parts, run_id)
            assert await until_final(node, run_id) < 0.5
            calls = len(models.made) + len(tools.made)
            assert all(m.how == "stopped" for m in made.made)
            run = await node.run(run_id)
            assert run.status == "canceled"
            await settle(40)
            assert len(models.made) + len(tools.made) == calls

    check()


@virtual_time
async def test_a_cancel_whose_notice_was_lost_is_told_again_by_the_sweep() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models, tools = Models("bye", takes_s=60), Tools()
        Executor(node, models, tools)
        run_id = await a_run(parts)
        await in_flight(models)
        publish = node.signals.publish

        async def lose(subject: str, data: bytes) -> None:
            if not subject.startswith("notice."):
                await publish(subject, data)

        node.signals.publish = lose  # type: ignore[method-assign]  # a notice may be lost
        await cancel(parts, run_id)
        node.signals.publish = publish  # type: ignore[method-assign]  # and back
        assert await until_final(node, run_id) < 1.6
        assert (await node.run(run_id)).status == "canceled"


@virtual_time
async def test_the_runs_time() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models, tools = Models(["tool.a"], "bye"), Tools({"tool.a": Tool(takes_s=60)})
        Executor(node, models, tools)
        run_id = await a_run(parts, timeout_ms=2000)
        assert 1.9 < await until_final(node, run_id) < 2.2
        run = await node.run(run_id)
        assert run.error is not None
        assert (run.status, run.error.code) == ("failed", "timeout")
        assert tools.made[0].how == "stopped"


@virtual_time
async def test_a_tools_time_is_its_own_and_the_run_goes_on() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models = Models(["tool.a", "tool.b"], "bye")
        tools = Tools({"tool.a": Tool(takes_s=60, timeout_ms=500), "tool.b": Tool()})
        Executor(node, models, tools)
        run_id = await a_run(parts)
        await until_final(node, run_id)
        run = await node.run(run_id)
        assert run.status == "completed"
        errors = {r.tool_id: r.error.code if r.error else None for r in run.results.values()}
        assert errors == {"tool.a": "timeout", "tool.b": None}


@virtual_time
async def test_a_model_that_takes_too_long_fails_the_run() -> None:
    async with a_node() as node:
        parts = await ready(node)
        Executor(node, Models("bye", takes_s=500), Tools())
        run_id = await a_run(parts, timeout_ms=1_000_000)
        assert 119 < await until_final(node, run_id, 200) < 121
        run = await node.run(run_id)
        assert run.error is not None
        assert run.error.code == "timeout"


@virtual_time
async def test_what_model_and_tool_say_no_to() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models = Models(["tool.a"], ProviderError("no"))
        Executor(node, models, Tools({"tool.a": Tool(error=ToolFailedError("no"))}))
        run_id = await a_run(parts)
        await until_final(node, run_id)
        run = await node.run(run_id)
        assert [r.error.code for r in run.results.values() if r.error] == ["tool_failed"]
        assert run.error is not None
        assert run.error.code == "provider_error"


@pytest.mark.parametrize("what", ["model", "tool"])
def test_a_bug_fails_the_run_and_stops_its_other_calls(what: str) -> None:
    @virtual_time
    async def check() -> None:
        async with a_node() as node:
            parts = await ready(node)
            bug = KeyError("a bug")
            models = Models(bug) if what == "model" else Models(["tool.a", "tool.b"])
            tools = Tools({"tool.a": Tool(error=bug), "tool.b": Tool(takes_s=50)})
            Executor(node, models, tools)
            run_id = await a_run(parts)
            assert await until_final(node, run_id) < 1
            run = await node.run(run_id)
            assert run.error is not None
            assert run.error.code == "internal_error"
            assert all(m.ended is not None for m in tools.made)
            again = await a_run(parts)
            await until_final(node, again)

    check()


@virtual_time
async def test_a_bug_before_the_run_is_taken_fails_it_too() -> None:
    async with a_node() as node:
        parts = await ready(node)

        class Broken(Tools):
            def spec(self, tool_id: str) -> None:
                raise KeyError("a bug")

        Executor(node, Models(), Broken({"tool.a": Tool()}))
        run_id = await a_run(parts)
        await until_final(node, run_id)
        run = await node.run(run_id)
        assert run.error is not None
        assert run.error.code == "internal_error"


@pytest.mark.parametrize("output", ["\ud800", [[object()]]], ids=["surrogate", "no JSON"])
def test_an_output_that_no_reader_could_parse_is_never_written(output: object) -> None:
    @virtual_time
    async def check() -> None:
        async with a_node() as node:
            parts = await ready(node)
            Executor(node, Models(["tool.a"], "bye"), Tools({"tool.a": Tool(output=output)}))
            run_id = await a_run(parts)
            await until_final(node, run_id)
            run = await node.run(run_id)
            assert run.status == "completed"
            assert [r.error.code for r in run.results.values() if r.error] == ["tool_failed"]

    check()


@virtual_time
async def test_an_output_nested_too_deep_is_never_written() -> None:
    deep: object = 1
    for _ in range(220):
        deep = [deep]
    async with a_node() as node:
        parts = await ready(node)
        Executor(node, Models(["tool.a"], "bye"), Tools({"tool.a": Tool(output=deep)}))
        run_id = await a_run(parts)
        await until_final(node, run_id)
        assert (await node.run(run_id)).status == "completed"


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_log_that_is_away_for_a_while_gets_the_same_commit_again(how: str) -> None:
    @virtual_time
    async def check() -> None:
        async with a_node(log := UnevenLog()) as node:
            parts = await ready(node)
            models, tools = Models(["tool.a"], "bye"), Tools({"tool.a": Tool("at_most_once")})
            Executor(node, models, tools)
            run_id = await a_run(parts)
            ids: list[str] = []

            def fail(commit: Commit) -> str | None:
                if "agentos.tool.call.completed" in commit.types:
                    ids.append(commit.commit_id)
                    return how if len(ids) < 5 else None
                return None

            log.fail = fail
            await until_final(node, run_id)
            assert len(ids) == 5
            assert len(set(ids)) == 1
            assert (await node.run(run_id)).status == "completed"
            assert list(tools.times().values()) == [1]

    check()


@virtual_time
async def test_a_log_that_is_away_for_long_costs_a_new_attempt_and_no_call() -> None:
    async with a_node(log := UnevenLog()) as node:
        parts = await ready(node)
        models, tools = Models(["tool.a"], "bye"), Tools({"tool.a": Tool("at_most_once")})
        Executor(node, models, tools)
        run_id = await a_run(parts)
        back = now() + 10

        def fail(commit: Commit) -> str | None:
            wanted = "agentos.tool.call.requested" in commit.types
            return "after" if wanted and now() < back else None

        log.fail = fail
        await until_final(node, run_id)
        run = await node.run(run_id)
        assert (run.status, run.attempt) == ("completed", 2)
        assert list(tools.times().values()) == [1]
        assert tools.made[0].began >= back


@virtual_time
async def test_a_zombies_late_result_loses() -> None:
    async with a_node() as node:
        parts = await ready(node)
        tools = Tools()
        slow, quick = Models("of the zombie", takes_s=3), Models("of the living")
        zombie = Executor(node, slow, tools)
        run_id = await a_run(parts)
        await in_flight(slow)
        zombie.line.silent = True
        zombie.line.up.clear()
        Executor(node, quick, tools, name="wrk_2")
        await until_final(node, run_id)
        zombie.line.up.set()
        zombie.line.silent = False
        await settle(5)
        run = await node.run(run_id)
        assert run.output is not None
        assert (run.output.text, run.attempt) == ("of the living", 2)
        assert slow.made[0].how == "ok"
        assert zombie.worker._running == {}


@virtual_time
async def test_a_zombie_between_its_intent_and_its_call_makes_no_call() -> None:
    async with a_node() as node:
        parts = await ready(node)
        tools = Tools({"tool.a": Tool("check", takes_s=1)})
        models = Models(["tool.a"], "bye")
        zombie = Executor(node, models, tools)
        run_id = await a_run(parts)
        cut = zombie.line

        async def cut_when_the_answer_is_there() -> None:
            await until(lambda: _has(models))
            cut.up.clear()
            cut.silent = True

        node.own(cut_when_the_answer_is_there())
        await settle(1)
        cut.up.clear()
        assert cut.silent
        Executor(node, models, tools, name="wrk_2")
        await until_final(node, run_id)
        cut.silent = False
        cut.up.set()
        await settle(5)
        assert all(n == 1 for n in tools.times().values())


async def _has(models: Models) -> bool:
    return bool(models.made) and models.made[0].ended is not None


@virtual_time
async def test_a_stale_offer_takes_no_lease_from_a_live_executor() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models, tools = Models(["tool.a"], "bye"), Tools({"tool.a": Tool("at_most_once", 3)})
        Executor(node, models, tools)
        run_id = await a_run(parts)
        await in_flight(tools)
        Executor(node, models, tools, name="wrk_2", slots=1)
        run = await node.run(run_id)
        for position in range(1, run.position):
            await parts.queue.put(WorkItem(run.ref, position))
            await settle(0.2)
        await until_final(node, run_id)
        run = await node.run(run_id)
        assert (run.status, run.attempt, run.worker_id) == ("completed", 1, "wrk_1")


@virtual_time
async def test_a_resumed_call_has_time_again_and_its_lease_too() -> None:
    """Two executors: a call resumed late must not look overdue, or it would be stolen for ever."""
    async with a_node() as node:
        parts = await ready(node)
        models = Models(["tool.a"], "bye")
        tools = Tools({"tool.a": Tool(takes_s=2.5, timeout_ms=3000)})
        dead = Executor(node, models, tools)
        run_id = await a_run(parts)
        await in_flight(tools)
        await asyncio.sleep(2)
        await dead.kill()
        for name in ("wrk_2", "wrk_3"):
            Executor(node, models, tools, name=name)
        await until_final(node, run_id)
        assert (await node.run(run_id)).attempt == 2


@virtual_time
async def test_an_executor_that_leaves_gives_its_runs_to_another_at_once() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models, tools = Models("bye", takes_s=5), Tools()
        leaving = Executor(node, models, tools)
        run_ids = [await a_run(parts) for _ in range(5)]
        await in_flight(models)
        Executor(node, models, tools, name="wrk_2")
        leaving.task.cancel()
        for run_id in run_ids:
            await until_final(node, run_id, 8)


@virtual_time
async def test_no_more_than_its_slots_run_at_once() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models, tools = Models("bye", takes_s=1), Tools()
        Executor(node, models, tools, slots=3)
        run_ids = [await a_run(parts) for _ in range(9)]
        for run_id in run_ids:
            await until_final(node, run_id)
        for made in models.made:
            assert made.ended is not None
            others = [
                m for m in models.made if m.began < made.ended and made.began < (m.ended or 0)
            ]
            assert len(others) <= 3


@virtual_time
async def test_a_zombies_result_loses_while_the_other_still_works() -> None:
    async with a_node() as node:
        parts = await ready(node)
        slow, slower = Models("of the zombie", takes_s=3), Models("of the living", takes_s=10)
        zombie = Executor(node, slow, Tools())
        run_id = await a_run(parts)
        await in_flight(slow)
        zombie.line.silent = True
        zombie.line.up.clear()
        Executor(node, slower, Tools(), name="wrk_2")
        await in_flight(slower)
        zombie.line.up.set()
        zombie.line.silent = False
        await settle(1)
        assert zombie.worker._running == {}
        await until_final(node, run_id)
        run = await node.run(run_id)
        assert run.output is not None
        assert (run.output.text, run.attempt) == ("of the living", 2)
