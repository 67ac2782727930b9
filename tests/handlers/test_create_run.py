"""create_run: who gets a run, who is told why not, and who gets the run that is there."""

import asyncio
from typing import Any

import pytest

from agentos.domain.admission.admission import admission_ref
from agentos.domain.agent.agent import Agent, agent_ref
from agentos.domain.errors import (
    AgentOSError,
    ConflictError,
    DependencyUnavailableError,
    InvalidStateTransitionError,
    NotFoundError,
    QuotaExceededError,
    RateLimitedError,
    TenantDisabledError,
    TenantUnknownError,
)
from agentos.domain.log import Commit, void_commit
from agentos.domain.run.idempotency import EPOCH_MS, RunKey
from agentos.domain.run.run import run_ref
from tests.domain.given import T0, moment
from tests.handlers.node import HOUR_MS, UnevenLog, a_node, create, settle
from tests.handlers.virtual import virtual_time

KEY = RunKey("tnt_a", "usr_a", "agt_a", "order-1")


@virtual_time
async def test_an_accepted_run_is_in_the_log_and_in_the_queue_and_holds_a_slot() -> None:
    async with a_node() as node:
        await node.tenant(max_concurrent_runs=3)
        parts = await node.handlers()
        answer = await create(parts, "hello", priority="high")
        run = await node.run(answer["run"]["run_id"])
        assert answer["existing"] is False
        assert answer["position"] == run.position
        assert answer["run"] == run.view()
        assert run.created.input == {"type": "text", "text": "hello"}
        (item,) = await node.queue.take(5, 0)
        assert (item.ref, item.position) == (run.ref, run.position)
        assert [r.position for r in item.records] == [run.position]
        assert list((await node.admission()).active) == [run.ref.aggregate_id]


@virtual_time
async def test_an_unknown_tenant_or_agent() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        with pytest.raises(TenantUnknownError):
            await create(parts)
        await node.tenant()
        await create(parts)
        with pytest.raises(NotFoundError):
            await create(parts, agent_id="agt_b")
        assert len((await node.admission()).active) == 1


@virtual_time
async def test_a_tenant_that_was_just_disabled_or_enabled() -> None:
    async with a_node() as node:
        tenant = await node.tenant()
        parts = await node.handlers()
        await create(parts)
        tenant.fold(await node.log.read(tenant.ref))
        await node.write(tenant.ref, events := tenant.disable("drain", moment()), tenant.position)
        await settle()
        with pytest.raises(TenantDisabledError):
            await create(parts)
        tenant.fold(await node.log.read(tenant.ref))
        assert events
        await node.write(tenant.ref, tenant.enable(moment()), tenant.position)
        await create(parts)  # at once: a refusal is never from stale memory


@virtual_time
async def test_a_deprecated_agent_takes_no_runs() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        await create(parts)
        agent = Agent(agent_ref("tnt_a", "agt_a"))
        agent.fold(await node.log.read(agent.ref))
        await node.write(agent.ref, agent.deprecate(moment()), agent.position)
        await settle()
        with pytest.raises(InvalidStateTransitionError):
            await create(parts)


@virtual_time
async def test_the_quota_and_that_a_run_that_ended_frees_its_slot_before_a_refusal() -> None:
    async with a_node() as node:
        await node.tenant(max_concurrent_runs=1)
        parts = await node.handlers()
        first = (await create(parts))["run"]["run_id"]
        with pytest.raises(QuotaExceededError) as caught:
            await create(parts)
        assert caught.value.details == {"limit": 1, "used": 1}
        await node.finish(first)
        second = (await create(parts))["run"]["run_id"]
        assert list((await node.admission()).active) == [second]


@virtual_time
async def test_a_process_that_never_saw_the_run_end_asks_the_log_before_it_refuses() -> None:
    async with a_node() as node:
        await node.tenant(max_concurrent_runs=1)
        dead, other = await node.handlers(), await node.handlers()
        dead.watch.on_final = lambda _: None
        await node.finish((await create(dead))["run"]["run_id"])
        await settle()
        await create(other)
        assert await node.most_active() == 1


@virtual_time
async def test_the_rate() -> None:
    async with a_node() as node:
        await node.tenant(run_create_qps=10, run_create_burst=2)
        parts = await node.handlers()
        await create(parts)
        await create(parts)
        with pytest.raises(RateLimitedError) as caught:
            await create(parts)
        wait = caught.value.details["retry_after_ms"]
        assert 0 < wait <= 100
        await settle(wait / 1000)
        await create(parts)


@virtual_time
async def test_the_same_key_and_body_is_the_same_run_also_when_the_quota_is_full() -> None:
    async with a_node() as node:
        await node.tenant(max_concurrent_runs=1)
        parts, other = await node.handlers(), await node.handlers()
        first = await create(parts, key="order-1")
        run_id = first["run"]["run_id"]
        assert run_id == KEY.run_id(T0)
        for process in (parts, other):
            again = await create(process, key="order-1")
            assert (again["run"]["run_id"], again["existing"]) == (run_id, True)
        await node.finish(run_id)
        for process in (parts, other):
            assert (await create(process, key="order-1"))["run"]["status"] == "completed"
        await settle()
        assert (await node.admission()).active == {}
        await create(parts)
        assert (await create(parts, key="order-1"))["run"]["run_id"] == run_id
        with pytest.raises(QuotaExceededError):
            await create(parts, key="order-2")


@pytest.mark.parametrize("other", [{"text": "else"}, {"max_steps": 3}])
def test_the_same_key_and_another_body_is_a_conflict(other: dict[str, Any]) -> None:
    @virtual_time
    async def check() -> None:
        async with a_node() as node:
            await node.tenant()
            parts = await node.handlers()
            await create(parts, key="order-1")
            with pytest.raises(ConflictError):
                await create(parts, **({"text": "hi"} | other), key="order-1")

    check()


@virtual_time
async def test_many_at_once_with_one_key_are_one_run() -> None:
    async with a_node(UnevenLog(3)) as node:
        await node.tenant(max_concurrent_runs=1)
        processes = [await node.handlers() for _ in range(3)]
        answers = await asyncio.gather(
            *(create(processes[n % 3], key="order-1") for n in range(12))
        )
        assert len({a["run"]["run_id"] for a in answers}) == 1
        assert [a["existing"] for a in answers].count(False) == 1
        assert len((await node.admission()).active) == 1


@virtual_time
async def test_after_its_time_the_key_takes_the_next_generation() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers(ttl_ms=HOUR_MS)
        first = (await create(parts, key="order-1"))["run"]["run_id"]
        await node.finish(first)
        await asyncio.sleep(3599)
        assert (await create(parts, key="order-1"))["run"]["run_id"] == first
        await asyncio.sleep(1)
        second = await create(parts, "other body", key="order-1")
        assert second["existing"] is False
        assert second["run"]["run_id"] == KEY.run_id(T0, 1)
        await settle()
        assert list((await node.admission()).active) == [second["run"]["run_id"]]
        again = await create(parts, "other body", key="order-1")
        assert again["run"]["run_id"] == second["run"]["run_id"]


LEFT_S = (EPOCH_MS - T0 % EPOCH_MS) / 1000


@pytest.mark.parametrize("skew_ms", [0, 5000, -5000])
def test_a_key_is_remembered_across_the_turn_of_an_epoch(skew_ms: int) -> None:
    @virtual_time
    async def check() -> None:
        async with a_node() as node:
            await node.tenant(max_concurrent_runs=1)
            parts = await node.handlers(ttl_ms=HOUR_MS)
            other = await node.handlers(ttl_ms=HOUR_MS, skew_ms=skew_ms)
            await asyncio.sleep(LEFT_S - 1)
            first = (await create(parts, key="order-1"))["run"]["run_id"]
            assert first == KEY.run_id(T0)
            for _ in range(4):
                again = await create(other, key="order-1")
                assert (again["run"]["run_id"], again["existing"]) == (first, True)
                await asyncio.sleep(1)
            await node.finish(first)
            again = await create(parts, key="order-1")
            assert again["run"]["run_id"] == first
            with pytest.raises(ConflictError):
                await create(parts, "else", key="order-1")
            await settle()
            assert (await node.admission()).active == {}
            await asyncio.sleep(3600)
            second = await create(parts, "else", key="order-1")
            assert second["run"]["run_id"] == KEY.run_id(T0 + EPOCH_MS)

    check()


@virtual_time
async def test_the_turn_of_an_epoch_between_the_question_and_the_decision() -> None:
    """A process whose clock is behind decides at the time that the tenant's log has reached."""
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers(ttl_ms=HOUR_MS)
        behind = await node.handlers(ttl_ms=HOUR_MS, skew_ms=-3000)
        await asyncio.sleep(LEFT_S - 1)
        first = (await create(parts, key="order-1"))["run"]["run_id"]
        await asyncio.sleep(2)
        await create(parts)
        assert behind.clock.now_ms() // EPOCH_MS < parts.clock.now_ms() // EPOCH_MS
        again = await create(behind, key="order-1")
        assert again["run"]["run_id"] == first


@virtual_time
async def test_a_key_whose_place_was_closed_takes_the_next_and_no_second_slot() -> None:
    async with a_node() as node:
        await node.tenant(max_concurrent_runs=1)
        parts = await node.handlers()
        closed = run_ref("tnt_a", KEY.run_id(T0))
        await node.log.append(void_commit(closed, node.new_id), expected=0)
        await settle()
        answer = await create(parts, key="order-1")
        assert answer["run"]["run_id"] == KEY.run_id(T0, 1)
        await settle()
        assert list((await node.admission()).active) == [KEY.run_id(T0, 1)]
        assert await node.most_active() == 1


@virtual_time
async def test_a_key_whose_run_never_came_is_finished_with_the_same_run() -> None:
    async with a_node(log := UnevenLog()) as node:
        await node.tenant(max_concurrent_runs=1)
        parts = await node.handlers()
        log.fail = lambda commit: "before" if commit.ref.kind == "run" else None
        with pytest.raises(DependencyUnavailableError):
            await create(parts, key="order-1")
        log.fail = lambda _: None
        answer = await create(parts, key="order-1")
        assert answer["run"]["run_id"] == KEY.run_id(T0)
        assert answer["existing"] is False


@virtual_time
async def test_an_acknowledgement_that_was_lost_costs_no_second_run() -> None:
    async with a_node(log := UnevenLog()) as node:
        await node.tenant(max_concurrent_runs=1)
        parts = await node.handlers()
        lost: list[Commit] = []

        def fail(commit: Commit) -> str | None:
            if commit.ref.kind == "run" and not lost:
                lost.append(commit)
                return "after"
            return None

        log.fail = fail
        with pytest.raises(DependencyUnavailableError):
            await create(parts, key="order-1")
        answer = await create(parts, key="order-1")
        assert answer["existing"] is True
        assert len(await node.live()) == 1


@pytest.mark.parametrize("seed", range(4))
def test_sixty_at_once_on_three_processes_and_seven_slots(seed: int) -> None:
    @virtual_time
    async def check() -> None:
        async with a_node(UnevenLog(seed)) as node:
            await node.tenant(max_concurrent_runs=7)
            processes = [await node.handlers() for _ in range(3)]
            answers = await asyncio.gather(
                *(create(processes[n % 3]) for n in range(60)), return_exceptions=True
            )
            accepted = [a["run"]["run_id"] for a in answers if isinstance(a, dict)]
            told = [a for a in answers if not isinstance(a, dict)]
            assert len(accepted) == 7
            assert all(isinstance(error, QuotaExceededError) for error in told)
            assert await node.most_active() == 7
            assert set(accepted) == await node.live() == set((await node.admission()).active)

    check()


@pytest.mark.parametrize("seed", range(4))
def test_slots_are_handed_on_under_load_and_never_doubled(seed: int) -> None:
    @virtual_time
    async def check() -> None:
        async with a_node(UnevenLog(seed)) as node:
            await node.tenant(max_concurrent_runs=5)
            processes = [await node.handlers() for _ in range(3)]
            done: list[str] = []

            async def one(number: int) -> None:
                while True:
                    try:
                        run = await create(processes[number % 3], key=f"k{number}")
                    except QuotaExceededError:
                        await asyncio.sleep(0.005)
                        continue
                    await asyncio.sleep(0.003)
                    await node.finish(run["run"]["run_id"])
                    done.append(run["run"]["run_id"])
                    return

            await asyncio.gather(*(one(n) for n in range(40)))
            assert len(set(done)) == 40
            assert await node.most_active() <= 5
            await settle(1)
            assert (await node.admission()).active == {}

    check()


@virtual_time
async def test_many_asks_are_few_commits() -> None:
    async with a_node(UnevenLog()) as node:
        await node.tenant()
        parts = await node.handlers()
        await asyncio.gather(*(create(parts) for _ in range(300)))
        commits = await node.log.read(admission_ref("tnt_a"))
        assert len(commits) <= 6
        assert len((await node.admission()).active) == 300


@virtual_time
async def test_when_the_log_is_away_everyone_waiting_is_told_and_nothing_is_forgotten() -> None:
    async with a_node(log := UnevenLog()) as node:
        await node.tenant(max_concurrent_runs=5)
        parts = await node.handlers()
        log.fail = lambda _: "after"
        answers = await asyncio.gather(*(create(parts) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(a, AgentOSError) for a in answers)
        log.fail = lambda _: None
        held = set((await node.admission()).active)
        assert held, "the reservation was written, though nobody was told"
        answer = await create(parts)
        assert set((await node.admission()).active) == held | {answer["run"]["run_id"]}
