"""The auditor: every cause has exactly one record, whatever ends it, whoever else appends."""

import asyncio
import hashlib
from typing import Any

import pytest

from agentos.domain.audit.chain import Entry, chain_ref
from agentos.domain.auth import AuthContext, Principal, system_auth
from agentos.domain.run.run import run_ref
from agentos.handlers.agents import register_agent
from agentos.handlers.audit import record
from agentos.handlers.auditor import chains as chains_module
from agentos.handlers.auditor.runs import LiveRuns
from agentos.handlers.commands import RegisterAgent
from agentos.infra.memory.log import MemoryLog
from tests.domain.given import TRACE
from tests.handlers.auditor.audited import (
    Crash,
    audit_all,
    auditor_on,
    checkpoints_of,
    crash_at,
    records_of,
    sign,
    verdict,
)
from tests.handlers.node import Node, a_node, cancel, create

RUNS = 5


async def worked(node: Node) -> list[str]:
    """Make a tenant with an agent and some runs that end; return the runs."""
    await node.tenant()
    parts = await node.handlers()
    runs = [(await create(parts, f"secret text {n}"))["run"]["run_id"] for n in range(RUNS)]
    for run_id in runs:
        await node.finish(run_id)
    return runs


def one_each(records: list[dict[str, Any]]) -> bool:
    causes = [record["cause"] for record in records]
    return len(causes) == len(set(causes))


async def test_a_tenants_work_is_recorded_in_the_order_of_the_log() -> None:
    async with a_node() as node:
        runs = await worked(node)
        await sign(await audit_all(node.log))
        records = await records_of(node.log, "tnt_a")
        assert [r["action"] for r in records[:2]] == ["tenants.create", "agents.register"]
        assert [r["run_id"] for r in records if r["action"] == "runs.create"] == runs
        assert len(records) == 2 + 2 * RUNS
        assert one_each(records)
        assert records[2]["principal"]["principal_id"] == "usr_a"
        assert not any("secret" in str(r) for r in records)
        assert (await verdict(node.log, "tnt_a")).view()["signed_to"] == len(records)


async def test_the_record_of_a_runs_end_has_the_digest_of_its_lines() -> None:
    async with a_node() as node:
        runs = await worked(node)
        await audit_all(node.log)
        for run_id in runs:
            lines = [x for r in await node.log.read(run_ref("tnt_a", run_id)) for x in r.lines()]
            digest = hashlib.sha256(b"\n".join(lines)).hexdigest()
            (end,) = (
                r
                for r in await records_of(node.log, "tnt_a")
                if r["action"] == "runs.end" and r["run_id"] == run_id
            )
            assert end["meta"]["digest"] == digest
            assert end["principal"]["principal_id"] == "usr_a"


async def test_a_run_that_was_forgotten_is_read_again() -> None:
    async with a_node() as node:
        runs = await worked(node)
        few = LiveRuns(node.log, kept=1)
        for run_id in runs:  # all begin, then all end
            few.follow((await node.log.read(run_ref("tnt_a", run_id)))[0])
        assert len(few) == 1
        for run_id in runs:
            known = await node.log.read(run_ref("tnt_a", run_id))
            for commit in known[1:]:
                few.follow(commit)
            seen = await few.at(known[-1])
            body = b"\n".join(commit.body for commit in known)
            assert seen.digest == hashlib.sha256(body).hexdigest()
            assert seen.principal.principal_id == "usr_a"


POINTS = ("auditor.before_append", "auditor.after_append")


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_crash_between_cause_and_record_loses_and_doubles_nothing(
    point: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chains_module, "RECORDS", 4)
    async with a_node() as node:
        await worked(node)
        with pytest.raises(Crash):
            await audit_all(node.log, crash_at(point, times))
        await sign(await audit_all(node.log))
        records = await records_of(node.log, "tnt_a")
        assert len(records) == 2 + 2 * RUNS
        assert one_each(records)
        assert (await verdict(node.log, "tnt_a")).first_bad is None


@pytest.mark.parametrize("point", ["auditor.before_checkpoint", "auditor.after_checkpoint"])
async def test_a_crash_about_a_checkpoint_leaves_one_that_holds(point: str) -> None:
    async with a_node() as node:
        await worked(node)
        with pytest.raises(Crash):
            await sign(await audit_all(node.log, crash_at(point)))
        await sign(await audit_all(node.log))
        assert len(await checkpoints_of(node.log, "tnt_a")) == 1
        found = (await verdict(node.log, "tnt_a")).view()
        assert (found["ok"], found["signed_to"]) == (True, 2 + 2 * RUNS)


async def test_two_auditors_and_a_handler_write_one_chain() -> None:
    async with a_node() as node:
        await worked(node)
        parts = await node.handlers()

        async def denials() -> None:
            for n in range(10):
                who = Principal(principal_id="usr_b")
                entry = Entry(who, "auth.denied", "x", "denied", f"r{n}")
                await record(parts, "tnt_a", [entry])
                await asyncio.sleep(0)

        await asyncio.gather(audit_all(node.log), audit_all(node.log), denials())
        await worked_more(node)
        await sign(await audit_all(node.log))
        records = await records_of(node.log, "tnt_a")
        assert len(records) == 2 + 2 * RUNS + 10 + 3
        assert one_each(records)
        found = (await verdict(node.log, "tnt_a")).view()
        assert (found["ok"], found["signed_to"]) == (True, len(records))


async def worked_more(node: Node) -> None:
    parts = await node.handlers()
    run = await create(parts)
    await cancel(parts, run["run"]["run_id"])
    # The cancel writes two events, the request and the end: three records with the creation.


async def test_the_next_start_reads_on_behind_the_last_checkpoint() -> None:
    async with a_node() as node:
        await worked(node)
        await sign(await audit_all(node.log))
        later = auditor_on(node.log)
        await later.resume()
        assert later.position > 2 + 2 * RUNS
        before = [await read(node.log, "tnt_a") for read in (records_of, checkpoints_of)]
        await audit_all(node.log)
        assert [await read(node.log, "tnt_a") for read in (records_of, checkpoints_of)] == before


async def test_long_chains_are_signed_every_thousand_records() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        for part in range(5):
            who = Principal(principal_id="usr_b")
            entries = [Entry(who, "auth.denied", "x", "denied", f"{part}.{n}") for n in range(450)]
            await record(parts, "tnt_a", entries)
        auditor = await audit_all(node.log)
        await auditor.notary.sign_due(-1)
        assert [c["sequence"] for c in await checkpoints_of(node.log, "tnt_a")] == [1000, 2000]
        again = await audit_all(node.log)
        await sign(again)
        signed = [c["sequence"] for c in await checkpoints_of(node.log, "tnt_a")]
        assert signed == [1000, 2000, 2250]
        assert (await verdict(node.log, "tnt_a")).first_bad is None


async def test_a_chain_that_does_not_hold_is_signed_no_more() -> None:
    async with a_node() as node:
        await worked(node)
        await sign(await audit_all(node.log))
        (last,) = (await node.log.read(chain_ref("tnt_a")))[-1:]
        forged = node.log._records[last.position - 1]
        await MemoryLog.append(node.log, forged, expected=last.position)
        assert (await verdict(node.log, "tnt_a")).first_bad is not None
        signed = len(await checkpoints_of(node.log, "tnt_a"))
        await worked_more(node)
        for _ in range(2):
            await sign(await audit_all(node.log))
        assert len(await checkpoints_of(node.log, "tnt_a")) == signed


async def test_an_administrator_of_another_tenant_is_named() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        auth: AuthContext = system_auth("tnt_a").model_copy(
            update={"principal": Principal(principal_id="usr_boss")}
        )
        command = RegisterAgent(
            traceparent=TRACE,
            correlation_id="cor_7",
            agent_id="agt_b",
            definition={"name": "B", "model_ref": "builtin/echo", "instructions": "be secret"},
        )
        await register_agent(parts, auth, command)
        await audit_all(node.log)
        last = (await records_of(node.log, "tnt_a"))[-1]
        assert (last["action"], last["resource"]) == ("agents.register", "agt_b")
        assert last["principal"]["principal_id"] == "usr_boss"
        assert last["correlation_id"] == "cor_7"
        assert last["meta"] == {"version": "1", "by_tenant": "tnt_a", "trace_id": TRACE[3:35]}


async def test_what_an_older_version_recorded_itself_is_not_recorded_twice() -> None:
    async with a_node() as node:
        await worked(node)
        await audit_all(node.log)
        copied = MemoryLog()
        for old in await _all(node.log):
            if old.ref.aggregate_id == "chain":
                continue
            ends = await copied.last(old.ref)
            await copied.append(old, expected=ends.position if ends else 0)
        first = (await node.log.read(chain_ref("tnt_a")))[0]
        await copied.append(_without_base(first), expected=0)
        await audit_all(copied)
        records = await records_of(copied, "tnt_a")
        assert len(records) == 2 + 2 * RUNS
        assert one_each(records)


async def _all(log: MemoryLog) -> list[Any]:
    return list(log._records)


def _without_base(record: Any) -> Any:
    from dataclasses import replace

    return replace(record, base=0)
