"""cancel_run: at once where nobody works on the run, by its lease holder where somebody does."""

from contextlib import suppress

import pytest

from agentos.domain.errors import InvalidStateTransitionError, NotFoundError
from agentos.domain.log import Commit, void_commit
from agentos.domain.run.run import run_ref
from agentos.handlers.sweep import sweep
from tests.handlers.node import UnevenLog, a_node, cancel, create, settle
from tests.handlers.virtual import virtual_time


@virtual_time
async def test_a_queued_run_is_canceled_at_once_and_frees_its_slot() -> None:
    async with a_node() as node:
        await node.tenant(max_concurrent_runs=1)
        parts = await node.handlers()
        run_id = (await create(parts))["run"]["run_id"]
        answer = await cancel(parts, run_id)
        assert answer["run"]["status"] == "canceled"
        run = await node.run(run_id)
        assert (run.status, run.sequence, run.position) == ("canceled", 3, answer["position"])
        await create(parts)


@virtual_time
async def test_with_a_live_holder_the_end_is_the_holders_to_write() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        notices: list[str] = []
        await node.signals.subscribe("notice.cancel.*", lambda subject, _: notices.append(subject))
        run_id = (await create(parts))["run"]["run_id"]
        await node.start(run_id)
        await node.beat()
        answer = await cancel(parts, run_id)
        assert answer["run"]["status"] == "running"
        await settle()
        assert notices == [f"notice.cancel.{run_id}"]
        await cancel(parts, run_id)
        run = await node.run(run_id)
        assert run.cancel is not None
        assert run.sequence == 3, "asked twice, it stands once"


@virtual_time
async def test_an_abandoned_run_is_canceled_at_once() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        run_id = (await create(parts))["run"]["run_id"]
        await node.start(run_id)
        await node.beat()
        await settle(2.1)
        assert (await cancel(parts, run_id))["run"]["status"] == "canceled"


@virtual_time
async def test_a_cancel_that_its_holder_left_undone_is_seen_through_by_the_sweep() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        run_id = (await create(parts))["run"]["run_id"]
        await node.start(run_id)
        await node.beat()
        await cancel(parts, run_id)
        await node.beat(leaving=True)
        await sweep(parts)
        run = await node.run(run_id)
        assert run.status == "canceled"
        await settle()
        assert parts.watch.runs == {}
        await sweep(parts)
        assert (await node.run(run_id)).sequence == run.sequence


@virtual_time
async def test_a_finished_run_cannot_be_canceled_unless_it_is_the_same_command() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        run_id = (await create(parts))["run"]["run_id"]
        first = await cancel(parts, run_id, "cmd_1")
        again = await cancel(parts, run_id, "cmd_1")
        assert again["run"] == first["run"]
        for command_id in (None, "cmd_2"):
            with pytest.raises(InvalidStateTransitionError) as caught:
                await cancel(parts, run_id, command_id)
            assert caught.value.details == {"status": "canceled"}
        assert (await node.run(run_id)).sequence == 3


@virtual_time
async def test_what_is_no_run_is_not_found() -> None:
    async with a_node() as node:
        await node.tenant()
        await node.tenant("tnt_b")
        parts = await node.handlers()
        other = (await create(parts, tenant_id="tnt_b"))["run"]["run_id"]
        closed = run_ref("tnt_a", "run_closed")
        await node.log.append(void_commit(closed, node.new_id), expected=0)
        for run_id in ("run_none", "run_closed", other):
            with pytest.raises(NotFoundError):
                await cancel(parts, run_id)


@virtual_time
async def test_a_cancel_races_with_the_executor_and_one_end_is_written() -> None:
    async with a_node(log := UnevenLog(1)) as node:
        await node.tenant()
        parts = await node.handlers()
        run_id = (await create(parts))["run"]["run_id"]
        raced: list[int] = []

        def meanwhile(commit: Commit) -> None:
            if not raced and commit.ref.kind == "run":
                raced.append(1)
                node.own(node.finish(run_id))

        log.fail = meanwhile
        with suppress(InvalidStateTransitionError):
            await cancel(parts, run_id)
        await settle()
        run = await node.run(run_id)
        assert run.is_final
