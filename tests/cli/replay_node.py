"""A broker whose log holds recorded runs of every kind: what the replay commands are tried on."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from agentos.domain.agent.agent import Agent, agent_ref
from agentos.domain.audit.chain import AuditChain, Entry, chain_ref
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.log import Recorded, make_commit
from agentos.domain.replay.replay import lines_digest
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.streams import ensure_log
from tests.domain.given import Ids, moment
from tests.domain.replay.given import lines_of
from tests.domain.replay.recorder import DEFINITION, kinds_of_runs
from tests.infra.embedded import EmbeddedNats

TENANT = "tnt_a"


def run_id_of(kind: str) -> str:
    """Return the id of the run of a kind."""
    return f"run_{kind}"


def runs() -> dict[str, list[Recorded]]:
    """Return a run of every kind, each with an id of its own."""
    return {kind: renamed(made.records, run_id_of(kind)) for kind, made in kinds_of_runs().items()}


def renamed(records: list[Recorded], run_id: str) -> list[Recorded]:
    """Return the same run under another id."""
    from dataclasses import replace

    return [
        replace(
            record,
            ref=record.ref._replace(aggregate_id=run_id),
            commit_id=f"{record.commit_id}_{run_id}",
            body=record.body.replace(b'"run_1"', f'"{run_id}"'.encode()),
        )
        for record in records
    ]


async def fill(url: str) -> None:
    """Write an agent, its runs, and the audit records of their ends."""
    connection = await connect(url, "test")
    try:
        await ensure_log(connection, expect_log=False)
        log, new_id = JetStreamLog(connection), Ids(50_000)
        agent = Agent(agent_ref(TENANT, "agt_a"))
        events = agent.register(DEFINITION, moment())
        await log.append(make_commit(agent.ref, events, new_id), expected=0)
        chain, behind = AuditChain(chain_ref(TENANT)), 0
        for records in runs().values():
            position = 0
            for record in records:
                position = await log.append(record, expected=position)
            entry = Entry(
                principal=SYSTEM_PRINCIPAL,
                action="runs.end",
                resource=records[0].ref.aggregate_id,
                outcome="allowed",
                cause=_last_event_id(records),
                meta={"digest": lines_digest(lines_of(records))},
            )
            commit = make_commit(chain.ref, chain.record([entry], moment(new_id=new_id)), new_id)
            behind = await log.append(commit, expected=behind)
    finally:
        await bounded_close(connection)


def _last_event_id(records: list[Recorded]) -> str:
    from agentos.domain.envelope import read_line

    return str(read_line(records[-1].lines()[-1])["event_id"])


def on_log(url: str, work: Callable[[JetStreamLog], Coroutine[Any, Any, Any]]) -> Any:
    """Do something with the log."""

    async def connected() -> Any:
        connection = await connect(url, "test")
        try:
            return await work(JetStreamLog(connection))
        finally:
            await bounded_close(connection)

    return asyncio.run(connected())


@pytest.fixture(scope="module")
def recorded_runs() -> Iterator[EmbeddedNats]:
    """A broker with the runs in its log."""
    server = EmbeddedNats()
    server.start()
    try:
        asyncio.run(fill(server.url))
        yield server
    finally:
        server.remove()
