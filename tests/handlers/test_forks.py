"""A fork is a run like any other: admitted, keyed, executed; and it begins with a past."""

from typing import Any

import pytest

from agentos.domain.auth import AuthContext
from agentos.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidStateTransitionError,
    NotFoundError,
    QuotaExceededError,
)
from agentos.domain.run.events import ModelRequested, RunStarted
from agentos.domain.run.run import run_ref
from agentos.handlers.commands import ForkRun
from agentos.handlers.forks import fork_run
from agentos.handlers.parts import Parts
from tests.domain.given import TRACE
from tests.handlers.executor.world import Executor, Models, Tool, Tools, until_final
from tests.handlers.node import Node, a_node, caller, create, settle
from tests.handlers.virtual import run_virtual


async def fork(
    parts: Parts,
    run_id: str,
    step: int,
    *,
    key: str | None = None,
    auth: AuthContext | None = None,
) -> dict[str, Any]:
    command = ForkRun(traceparent=TRACE, run_id=run_id, from_step=step, idempotency_key=key)
    return await fork_run(parts, auth or caller(), command)


def on_a_node(story: Any, **runs: Any) -> None:
    async def told() -> None:
        async with a_node() as node:
            await node.tenant(**runs)
            parts = await node.handlers()
            tools = Tools({"tool.a": Tool("at_most_once"), "tool.b": Tool()})
            executor = Executor(node, Models(["tool.a", "tool.b"], ["tool.b"], "bye"), tools)
            await story(node, parts, executor)

    run_virtual(told())


async def done(node: Node, parts: Parts) -> str:
    run_id: str = (await create(parts))["run"]["run_id"]
    await until_final(node, run_id)
    return run_id


def test_it_goes_on_from_its_step_and_calls_nothing_of_the_past_again() -> None:
    async def story(node: Node, parts: Parts, executor: Executor) -> None:
        run_id = await done(node, parts)
        calls, asked = len(executor.tools.made), len(executor.models.made)
        answer = await fork(parts, run_id, 4)
        assert answer["existing"] is False
        forked = answer["run"]["run_id"]
        assert answer["run"]["forked_from"] == {"run_id": run_id, "from_step": 4}
        assert answer["run"]["status"] == "queued"
        await until_final(node, forked)
        run = await node.run(forked)
        assert run.status == "completed"
        assert run.output is not None
        assert run.output.text == "bye"
        assert run.view()["forked_from"]["run_id"] == run_id
        assert len(executor.models.made) == asked + 2
        assert len(executor.tools.made) == calls + 1
        await settle(2)
        assert (await node.admission()).active == {}
        assert (await node.run(run_id)).view().get("forked_from") is None

    on_a_node(story)


def test_a_fork_of_a_fork_and_of_the_first_step() -> None:
    async def story(node: Node, parts: Parts, executor: Executor) -> None:
        run_id = await done(node, parts)
        first = (await fork(parts, run_id, 1))["run"]["run_id"]
        await until_final(node, first)
        second = (await fork(parts, first, 3))["run"]["run_id"]
        await until_final(node, second)
        for forked in (first, second):
            assert (await node.run(forked)).status == "completed"

    on_a_node(story)


def test_its_key_finds_it_again_and_no_other() -> None:
    async def story(node: Node, parts: Parts, executor: Executor) -> None:
        run_id = await done(node, parts)
        one = await fork(parts, run_id, 2, key="k")
        two = await fork(parts, run_id, 2, key="k")
        assert two["existing"] is True
        assert one["run"]["run_id"] == two["run"]["run_id"]
        with pytest.raises(ConflictError):
            await fork(parts, run_id, 3, key="k")
        with pytest.raises(ConflictError):
            await create(parts, "hi", key="k")
        await until_final(node, one["run"]["run_id"])
        await settle(2)
        assert (await node.admission()).active == {}

    on_a_node(story)


def test_it_is_admitted_as_any_run() -> None:
    async def story(node: Node, parts: Parts, executor: Executor) -> None:
        run_id = await done(node, parts)
        executor.line.up.clear()
        await fork(parts, run_id, 1)
        with pytest.raises(QuotaExceededError):
            await fork(parts, run_id, 1)
        executor.line.up.set()

    on_a_node(story, max_concurrent_runs=1)


def test_what_may_not_be_forked() -> None:
    async def story(node: Node, parts: Parts, executor: Executor) -> None:
        run_id = await done(node, parts)
        for other in ("run_nobody", "run_1"):
            with pytest.raises(NotFoundError):
                await fork(parts, other, 1)
        await node.tenant("tnt_b")
        with pytest.raises(NotFoundError):
            await fork(parts, run_id, 1, auth=caller("tnt_b"))
        with pytest.raises(InvalidStateTransitionError):
            await fork(parts, run_id, 99)
        blind = caller().model_copy(update={"scopes": frozenset({"runs:create"})})
        with pytest.raises(ForbiddenError):
            await fork(parts, run_id, 1, auth=blind)
        await settle(2)
        assert (await node.admission()).active == {}

    on_a_node(story)


def test_the_past_and_the_creation_are_one_commit() -> None:
    async def story(node: Node, parts: Parts, executor: Executor) -> None:
        run_id = await done(node, parts)
        forked = (await fork(parts, run_id, 4))["run"]["run_id"]
        await until_final(node, forked)
        first, second = (await node.log.read(run_ref("tnt_a", forked)))[:2]
        assert first.types[0] == "agentos.run.created"
        assert len(first.types) == 1 + 3 * 4
        assert second.types[0] == RunStarted.TYPE
        assert ModelRequested.TYPE in second.types

    on_a_node(story)
