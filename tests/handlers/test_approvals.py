"""A run that waits for a person: held by nobody, decided once, and gone on with exactly once."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentos.domain.auth import ADMIN_SCOPES, AuthContext
from agentos.domain.errors import ForbiddenError, InvalidStateTransitionError, NotFoundError
from agentos.domain.log import Commit
from agentos.handlers.approvals import decide_on_approval
from agentos.handlers.commands import DecideApproval
from agentos.handlers.parts import Parts
from agentos.handlers.sweep import sweep_for_ever
from tests.domain.given import TRACE
from tests.handlers.executor.world import (
    APPROVAL_WAIT_MS,
    ASKS,
    BLOCKS,
    Executor,
    Models,
    Tool,
    Tools,
    until,
    until_final,
)
from tests.handlers.node import Node, UnevenLog, a_node, caller, cancel, create, settle
from tests.handlers.virtual import virtual_time

BOSS = caller(principal_id="usr_boss").model_copy(update={"scopes": ADMIN_SCOPES})


async def decide(
    parts: Parts,
    run_id: str,
    decision: str = "approve",
    approval_id: str | None = None,
    *,
    node: Node | None = None,
    auth: AuthContext = BOSS,
    reason: str | None = None,
) -> dict[str, Any]:
    """Decide on an approval of a run; without its id, on the first that the run waits for."""
    if node is not None:
        run = await node.run(run_id)
        approval_id = next(iter(run.approvals.asked.values())).approval_id
    said = {
        "run_id": run_id,
        "approval_id": approval_id,
        "decision": decision,
        "reason": reason,
        "traceparent": TRACE,
    }
    return await decide_on_approval(parts, auth, DecideApproval.model_validate(said))


async def waits(node: Node, run_id: str) -> str:
    """Wait until a run waits, and everybody knows; return its approval."""

    async def is_so() -> bool:
        return (await node.run(run_id)).is_waiting

    await until(is_so)
    await settle()
    run = await node.run(run_id)
    return next(iter(run.approvals.asked.values())).approval_id


def asking(*more: str, takes_s: float = 0.01) -> tuple[Models, Tools]:
    """A model that asks for tool.a, which a person must approve, beside others."""
    names = ["tool.a", *more]
    tools = Tools({name: Tool("at_most_once", takes_s=takes_s) for name in names})
    return Models(names, "bye", policies={"tool.a": ASKS}), tools


async def ready(node: Node, **runs: Any) -> Parts:
    await node.tenant(**runs)
    parts = await node.handlers()
    node.own(sweep_for_ever(parts))
    return parts


@virtual_time
async def test_a_waiting_run_is_in_nobodys_hands_and_goes_on_when_it_was_approved() -> None:
    async with a_node() as node:
        parts = await ready(node, max_concurrent_runs=1)
        models, tools = asking()
        executor = Executor(node, models, tools)
        run_id = (await create(parts))["run"]["run_id"]
        approval_id = await waits(node, run_id)
        assert executor.worker._running == {}
        assert executor.worker._tasks == set()
        assert await node.queue.size() == 0
        (live,) = parts.watch.runs.values()
        assert live.lease is None
        assert parts.dispatcher._out == {}
        sequence = (await node.run(run_id)).sequence
        await asyncio.sleep(1800)
        assert (await node.run(run_id)).sequence == sequence, "nobody took it for abandoned"
        assert len((await node.admission()).active) == 1, "a waiting run counts"
        answer = await decide(parts, run_id, "approve", approval_id, reason="fine")
        assert answer["run"]["status"] == "running"
        assert answer["approval"]["status"] == "approved"
        await until_final(node, run_id, 5)
        run = await node.run(run_id)
        assert run.status == "completed"
        assert list(tools.times().values()) == [1]
        assert run.attempt == 2
        assert run.waited_ms >= 1_800_000


@virtual_time
async def test_a_rejected_call_is_not_made_and_the_model_is_told() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models, tools = asking()
        Executor(node, models, tools)
        run_id = (await create(parts))["run"]["run_id"]
        await waits(node, run_id)
        await decide(parts, run_id, "reject", node=node, reason="no")
        await until_final(node, run_id, 5)
        run = await node.run(run_id)
        assert (run.status, tools.made, len(models.made)) == ("completed", [], 2)
        (result,) = run.results.values()
        assert result.error is not None
        assert result.error.code == "approval_rejected"


@virtual_time
async def test_a_blocked_call_is_not_made_and_nobody_is_asked() -> None:
    async with a_node() as node:
        parts = await ready(node)
        tools = Tools({"tool.a": Tool(), "tool.b": Tool()})
        Executor(node, Models(["tool.a", "tool.b"], "bye", policies={"tool.a": BLOCKS}), tools)
        run_id = (await create(parts))["run"]["run_id"]
        await until_final(node, run_id, 5)
        run = await node.run(run_id)
        assert run.status == "completed"
        codes = {r.tool_id: r.error.code if r.error else None for r in run.results.values()}
        assert codes == {"tool.a": "policy_blocked", "tool.b": None}
        assert len(tools.made) == 1


@virtual_time
async def test_there_is_one_decision_for_ever() -> None:
    async with a_node() as node:
        parts = await ready(node)
        Executor(node, *asking())
        run_id = (await create(parts))["run"]["run_id"]
        approval_id = await waits(node, run_id)
        first = await decide(parts, run_id, "approve", approval_id)
        again = await decide(parts, run_id, "approve", approval_id, reason="another")
        assert again["approval"] == first["approval"]
        with pytest.raises(InvalidStateTransitionError) as caught:
            await decide(parts, run_id, "reject", approval_id)
        assert caught.value.details == {"status": "approved", "by": "usr_boss"}
        await until_final(node, run_id, 5)
        last = await decide(parts, run_id, "approve", approval_id)
        assert last["run"]["status"] == "completed"
        with pytest.raises(InvalidStateTransitionError):
            await decide(parts, run_id, "reject", approval_id)


@virtual_time
async def test_two_who_decide_at_once_agree_on_one_decision() -> None:
    for seed in range(6):
        async with a_node(UnevenLog(seed)) as node:
            parts, others = await ready(node), await node.handlers()
            Executor(node, *asking())
            run_id = (await create(parts))["run"]["run_id"]
            approval_id = await waits(node, run_id)
            results = await asyncio.gather(
                decide(parts, run_id, "approve", approval_id),
                decide(others, run_id, "reject", approval_id),
                decide(parts, run_id, "reject", approval_id),
                decide(others, run_id, "approve", approval_id),
                return_exceptions=True,
            )
            said = {r["approval"]["status"] for r in results if isinstance(r, dict)}
            assert len(said) == 1
            assert sum(isinstance(r, InvalidStateTransitionError) for r in results) == 2
            await until_final(node, run_id, 30)
            run = await node.run(run_id)
            assert [a.status for a in run.approvals.all.values()] == list(said)


@virtual_time
async def test_who_may_not_decide_and_what_is_not_there() -> None:
    async with a_node() as node:
        parts = await ready(node)
        await node.tenant("tnt_b")
        Executor(node, *asking())
        run_id = (await create(parts))["run"]["run_id"]
        approval_id = await waits(node, run_id)
        with pytest.raises(ForbiddenError):
            await decide(parts, run_id, "approve", approval_id, auth=caller())
        other = BOSS.model_copy(update={"tenant_id": "tnt_b"})
        with pytest.raises(NotFoundError):
            await decide(parts, run_id, "approve", approval_id, auth=other)
        with pytest.raises(NotFoundError):
            await decide(parts, "run_none", "approve", approval_id)
        with pytest.raises(NotFoundError):
            await decide(parts, run_id, "approve", "apr_none")
        assert (await node.run(run_id)).is_waiting


@virtual_time
async def test_a_waiting_run_is_canceled_at_once_by_the_handler() -> None:
    async with a_node() as node:
        parts = await ready(node, max_concurrent_runs=1)
        models, tools = asking()
        Executor(node, models, tools)
        run_id = (await create(parts))["run"]["run_id"]
        approval_id = await waits(node, run_id)
        assert (await cancel(parts, run_id))["run"]["status"] == "canceled"
        with pytest.raises(InvalidStateTransitionError) as caught:
            await decide(parts, run_id, "approve", approval_id)
        assert caught.value.details == {"status": "canceled"}
        assert tools.made == []
        await settle()
        await create(parts)


@virtual_time
async def test_what_nobody_decides_on_in_its_time_is_rejected_by_the_sweep() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models, tools = asking()
        Executor(node, models, tools)
        run_id = (await create(parts, timeout_ms=5_000))["run"]["run_id"]
        approval_id = await waits(node, run_id)
        await asyncio.sleep(APPROVAL_WAIT_MS / 1000 - 10)
        assert (await node.run(run_id)).is_waiting
        await until_final(node, run_id, 20)
        run = await node.run(run_id)
        assert run.status == "completed"
        approval = run.approvals.all[approval_id]
        assert (approval.status, approval.by, approval.why) == (
            "expired",
            "svc_agentos",
            "approval_expired",
        )
        assert tools.made == []
        with pytest.raises(InvalidStateTransitionError) as caught:
            await decide(parts, run_id, "reject", approval_id)
        assert caught.value.details["status"] == "expired"


@virtual_time
async def test_handlers_that_start_anew_know_who_waits_and_until_when() -> None:
    async with a_node() as node:
        await node.tenant()
        first = await node.handlers()
        models, tools = asking()
        Executor(node, models, tools)
        run_id = (await create(first))["run"]["run_id"]
        await waits(node, run_id)
        second = await node.handlers()
        (live,) = second.watch.runs.values()
        assert live.waits_until > 0
        node.own(sweep_for_ever(second))
        sequence = (await node.run(run_id)).sequence
        await asyncio.sleep(400)
        assert (await node.run(run_id)).sequence == sequence
        await asyncio.sleep(APPROVAL_WAIT_MS / 1000)
        run = await node.run(run_id)
        assert (run.status, tools.made) == ("completed", [])


@virtual_time
async def test_an_answer_without_an_offer_is_found_by_the_sweep() -> None:
    """The handler dies behind its append: the log says that the run is to go on."""
    async with a_node() as node:
        parts = await ready(node)

        class DiedError(Exception):
            pass

        def dies(name: str) -> None:
            if name == "handlers.after_decided":
                raise DiedError

        models, tools = asking()
        Executor(node, models, tools)
        run_id = (await create(parts))["run"]["run_id"]
        await waits(node, run_id)
        with pytest.raises(DiedError):
            await decide(replace(parts, crash_point=dies), run_id, node=node)
        await until_final(node, run_id, 30)
        assert (await node.run(run_id)).status == "completed"
        assert list(tools.times().values()) == [1]


@virtual_time
async def test_executors_that_die_around_an_approval_make_the_call_once() -> None:
    points = ("executor.before_result", "executor.after_append", "executor.after_started")
    for point in points:
        async with a_node() as node:
            parts = await ready(node)
            models, tools = asking()
            second: list[Executor] = []

            def dies(name: str, point: str = point, second: list[Executor] = second) -> None:
                if name == point and second:
                    second[0].line.silent = True
                    second[0].line.up.clear()
                    second.clear()
                    raise asyncio.CancelledError

            first = Executor(node, models, tools, crash_point=dies)
            run_id = (await create(parts))["run"]["run_id"]
            await waits(node, run_id)
            second.append(first)
            await decide(parts, run_id, node=node)
            await asyncio.sleep(0.05)
            Executor(node, models, tools, name="wrk_2")
            await until_final(node, run_id, 60)
            run = await node.run(run_id)
            made = list(tools.times().values())
            if run.status == "completed":
                assert made == [1], point
            else:  # its intent was written, nobody can tell: a person's to settle
                assert run.error is not None
                assert run.error.code == "interrupted", point
                assert sum(made) <= 1


@virtual_time
async def test_beside_a_call_in_flight_it_is_approved_and_called_by_who_has_the_run() -> None:
    async with a_node() as node:
        parts = await ready(node)
        models, tools = asking("tool.b", "tool.c")
        tools.tools["tool.b"].takes_s = 5
        tools.tools["tool.c"].takes_s = 20
        Executor(node, models, tools)
        run_id = (await create(parts))["run"]["run_id"]

        async def asked() -> bool:
            return bool((await node.run(run_id)).approvals.asked) and len(tools.made) == 2

        await until(asked)
        await decide(parts, run_id, node=node)
        await until_final(node, run_id, 30)
        run = await node.run(run_id)
        assert (run.status, run.attempt, run.waited_ms) == ("completed", 1, 0)
        assert list(tools.times().values()) == [1, 1, 1]
        assert tools.made[2].began - tools.made[0].began < 6, "not behind the longest of them"


@virtual_time
async def test_a_decision_and_the_end_of_the_call_beside_it_race() -> None:
    for seed in range(8):
        async with a_node(log := UnevenLog(seed)) as node:
            parts = await ready(node)
            models, tools = asking("tool.b")
            Executor(node, models, tools)
            run_id = (await create(parts))["run"]["run_id"]
            raced: list[int] = []

            def meanwhile(
                commit: Commit,
                raced: list[int] = raced,
                parts: Parts = parts,
                run_id: str = run_id,
                node: Node = node,
            ) -> None:
                if not raced and "agentos.tool.call.completed" in commit.types:
                    raced.append(1)
                    node.own(_approve(parts, run_id, node))

            log.fail = meanwhile
            await until_final(node, run_id, 60)
            run = await node.run(run_id)
            assert run.status == "completed"
            assert sorted(tools.times().values()) == [1, 1]


async def _approve(parts: Parts, run_id: str, node: Node) -> None:
    await decide(parts, run_id, node=node)


@virtual_time
async def test_waiting_runs_keep_none_of_their_tenants_from_running() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers(slots=2)
        node.own(sweep_for_ever(parts))
        models, tools = asking()
        Executor(node, models, tools, slots=2)
        ids = [(await create(parts))["run"]["run_id"] for _ in range(6)]
        for run_id in ids:
            await waits(node, run_id)
        for run_id in ids:
            await decide(parts, run_id, node=node)
        for run_id in ids:
            await until_final(node, run_id, 30)
        assert sorted(tools.times().values()) == [1] * 6


@virtual_time
async def test_a_run_that_cannot_be_written_does_not_hold_up_the_others() -> None:
    async with a_node(log := UnevenLog()) as node:
        parts = await ready(node)
        models, tools = asking()
        Executor(node, models, tools)
        broken, other = [(await create(parts, timeout_ms=5_000))["run"]["run_id"] for _ in range(2)]
        for run_id in (broken, other):
            await waits(node, run_id)
        tried: list[str] = []

        def fail(commit: Commit) -> str | None:
            if commit.ref.aggregate_id != broken:
                return None
            tried.append(broken)
            return "before"

        log.fail = fail
        await asyncio.sleep(APPROVAL_WAIT_MS / 1000 - 10)
        await until_final(node, other, 30)
        assert tried
        assert (await node.run(broken)).is_waiting
        log.fail = lambda _: None
        await until_final(node, broken, 30)
