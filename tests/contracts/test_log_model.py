"""Any sequence of calls gives the same answers on the memory log and on JetStream."""

import asyncio
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentos.domain.errors import AppendConflictError
from agentos.domain.log import Commit, void_commit
from agentos.domain.ports import EventLog
from agentos.domain.subjects import StreamRef
from agentos.infra.memory.log import MemoryLog
from tests.contracts.logs import commit, jetstream_log, new_id, past
from tests.infra.embedded import EmbeddedNats

REFS = [
    StreamRef(tenant, kind, aggregate)
    for tenant in ("tnt_a", "tnt_b")
    for kind, aggregate in (("run", "run_1"), ("run", "run_2"), ("quota", "runs"))
]
refs = st.sampled_from(REFS)
places = st.integers(0, 12)
tenants = st.sampled_from([None, "tnt_a", "tnt_b"])
kinds = st.sampled_from([(), ("run",), ("quota", "run"), ("agent",)])
steps = st.one_of(
    st.tuples(st.just("append"), refs, st.sampled_from(["right", "right", "0", "stale"])),
    st.tuples(st.just("void"), refs),
    st.tuples(st.just("repeat"), places),
    st.tuples(st.just("read"), refs, places),
    st.tuples(st.just("last"), refs),
    st.tuples(st.just("last_many"), st.lists(refs)),
    st.tuples(st.just("last_of_kind"), st.sampled_from(["run", "quota", "agent"]), tenants),
    st.tuples(st.just("tail"), places, kinds, tenants, st.booleans()),
    st.tuples(st.just("head")),
)


async def append(log: EventLog, mine: Commit, expected: int) -> int | str:
    """Return the position, or the word `conflict`."""
    try:
        return await log.append(mine, expected=expected)
    except AppendConflictError:
        return "conflict"


async def answers(log: EventLog, made: list[tuple[Commit, int]], step: tuple[Any, ...]) -> Any:
    """Return what a log says to one step that reads."""
    name, *arguments = step
    match name:
        case "read":
            return await log.read(arguments[0], after=arguments[1])
        case "tail":
            after, some_kinds, tenant, headers_only = arguments
            return await past(
                log.tail(after=after, kinds=some_kinds, tenant_id=tenant, headers_only=headers_only)
            )
        case "repeat":
            return await append(log, *made[arguments[0] % len(made)]) if made else None
        case _:
            return await getattr(log, name)(*arguments)


async def decide(step: tuple[Any, ...], log: EventLog) -> tuple[Commit, int]:
    """Return the commit of an `append` or `void` step and the position it expects."""
    last = await log.last(step[1])
    if step[0] == "void":
        return void_commit(step[1], new_id), 0
    first = last.first_sequence + 1 if last else 1
    expected = {"right": last.position if last else 0, "0": 0, "stale": 7}[step[2]]
    return replace(commit(step[1], first), command_id=new_id("cmd")), expected


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(steps, max_size=30))
def test_both_logs_answer_alike(nats_server: EmbeddedNats, script: list[tuple[Any, ...]]) -> None:
    async def play() -> None:
        memory = MemoryLog()
        made: list[tuple[Commit, int]] = []
        async with jetstream_log(nats_server.url) as jetstream:
            for step in script:
                if step[0] in ("append", "void"):
                    mine = await decide(step, memory)
                    made.append(mine)
                    assert await append(jetstream, *mine) == await append(memory, *mine), step
                else:
                    theirs = await answers(jetstream, made, step)
                    assert theirs == await answers(memory, made, step), step

    asyncio.run(play())
