"""Erasing a data subject: what is sealed, what is stopped, what races, and what a crash leaves."""

import asyncio
from typing import Any

import pytest

from agentos.domain.aggregate import read_events
from agentos.domain.auth import ADMIN_SCOPES, AuthContext, Principal
from agentos.domain.envelope import to_line
from agentos.domain.errors import ForbiddenError, NotFoundError, SubjectErasedError
from agentos.domain.federation.remote import RemoteRun, copied_lines, remote_ref
from agentos.domain.privacy.subject import DataSubject, subject_id_of, subject_ref
from agentos.domain.replay.capsule import agent_line, read_runs, run_lines
from agentos.domain.replay.replay import lines_digest
from agentos.domain.run.events import Output
from agentos.domain.run.request import RunRequest
from agentos.domain.run.run import Run, run_ref
from agentos.domain.times import rfc3339
from agentos.handlers.commands import CreateRun, EraseSubject, ForkRun
from agentos.handlers.erasure import erase_subject
from agentos.handlers.forks import fork_run
from agentos.handlers.parts import Parts
from agentos.handlers.routes import handle
from agentos.handlers.runs import create_run
from agentos.infra.memory.log import MemoryLog
from tests.domain.given import T0, TRACE, Ids, created, moment
from tests.domain.replay.given import assert_replays
from tests.handlers.auditor.audited import Crash, audit_all, crash_at, records_of
from tests.handlers.executor.world import Executor, Models, Tool, Tools, until, until_final
from tests.handlers.node import Node, a_node, caller, settle
from tests.handlers.test_tenants import send
from tests.handlers.virtual import virtual_time

IDA = subject_id_of("tnt_a", "usr_ida")
WORD = "zanzibar"


def admin(tenant_id: str = "tnt_a", *roles: str) -> AuthContext:
    principal = Principal(principal_id="usr_admin")
    return AuthContext(tenant_id=tenant_id, principal=principal, scopes=ADMIN_SCOPES, roles=roles)


async def erase(parts: Parts, subject: str = "usr_ida", **more: Any) -> dict[str, Any]:
    auth = more.pop("auth", admin())
    command = EraseSubject(traceparent=TRACE, tenant_id="tnt_a", subject=subject, **more)
    found: dict[str, Any] = (await erase_subject(parts, auth, command))["erasure"]
    return found


async def switched(node: Node, **more: Any) -> Parts:
    """Return a handler process, and a tenant with the switch."""
    await node.tenant()
    parts = await node.handlers(**more)
    await send(parts, "tenant.update", changes={"privacy": {"erasure": True}})
    return parts


async def start(
    parts: Parts, user: str | None = "usr_ida", *, key: str | None = None, text: str = WORD
) -> str:
    request = RunRequest.model_validate(
        {
            "input": {"type": "text", "text": text},
            "context": {"user_id": user} if user else {},
            "idempotency_key": key,
        }
    )
    command = CreateRun(traceparent=TRACE, agent_id="agt_a", request=request)
    answer = await create_run(parts, caller(), command)
    run_id: str = answer["run"]["run_id"]
    return run_id


async def shown(node: Node, run_id: str) -> Run:
    ref = run_ref("tnt_a", run_id)
    return Run(ref).fold(await node.opened_log().read(ref))


async def raw(node: Node, run_id: str) -> bytes:
    records = await MemoryLog.read(node.log, run_ref("tnt_a", run_id))
    return b"\n".join(record.body for record in records)


@virtual_time
async def test_a_run_is_sealed_from_its_first_commit_to_its_last() -> None:
    async with a_node() as node:
        parts = await switched(node)
        models = Models(["tool.a"], f"the end: {WORD}")
        run_id = await start(parts)
        assert [entry.item.records for entry in node.queue._entries.values()] == [()]
        Executor(node, models, Tools({"tool.a": Tool()}))
        await until_final(node, run_id)
        assert WORD.encode() not in await raw(node, run_id)
        run = await shown(node, run_id)
        assert (run.status, run.created.input["text"]) == ("completed", WORD)
        assert run.output is not None
        assert WORD in run.output.text
        records = await MemoryLog.read(node.log, run.ref)
        assert {record.sealed for record in records} == {f"{IDA}-1"}


@virtual_time
async def test_a_run_of_before_the_switch_stays_as_it_was_begun() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        run_id = await start(parts)
        await send(parts, "tenant.update", changes={"privacy": {"erasure": True}})
        other = await start(parts)
        await send(parts, "tenant.update", changes={"privacy": None})
        Executor(node, Models(WORD, WORD), Tools({}))
        await until_final(node, run_id)
        await until_final(node, other)
        assert WORD.encode() in await raw(node, run_id)
        assert WORD.encode() not in await raw(node, other)


@virtual_time
async def test_a_run_without_a_user_is_its_principals() -> None:
    async with a_node() as node:
        parts = await switched(node)
        run_id = await start(parts, user=None)
        assert (await shown(node, run_id)).sealed == f"{subject_id_of('tnt_a', 'usr_a')}-1"


@virtual_time
async def test_an_erasure_reaches_all_of_a_subject_and_nothing_else() -> None:
    async with a_node() as node:
        parts = await switched(node)
        Executor(node, Models(WORD), Tools({}))
        mine, other = await start(parts), await start(parts, user="usr_olaf")
        for run_id in (mine, other):
            await until_final(node, run_id)
        dry = await erase(parts, dry_run=True)
        assert (dry["done_now"], dry["erased"], dry["runs"]) == (False, False, 1)
        assert (await shown(node, mine)).is_readable
        before = await raw(node, mine)
        report = await erase(parts)
        assert (report["done_now"], report["erased"], report["runs"]) == (True, True, 1)
        assert (report["commits"], report["events"]) == (dry["commits"], dry["events"])
        assert await raw(node, mine) == before
        assert not (await shown(node, mine)).is_readable
        assert (await shown(node, other)).is_readable
        assert await erase(parts) | {"done_now": True} == report
        assert await erase(parts, IDA) | {"done_now": True} == report
        await audit_all(node.log)
        (audited,) = [
            r for r in await records_of(node.log, "tnt_a") if r["action"] == "subjects.erase"
        ]
        assert (audited["resource"], audited["meta"]["generation"]) == (IDA, 1)
        assert audited["principal"]["principal_id"] == "usr_admin"


@virtual_time
async def test_what_runs_is_stopped_and_what_comes_later_is_not_erased() -> None:
    async with a_node() as node:
        parts = await switched(node)
        executor = Executor(node, Models(WORD, WORD, takes_s=30), Tools({}))
        running = await start(parts)

        async def asked() -> bool:
            return bool(executor.models.made)

        await until(asked)
        report = await erase(parts)
        assert report["runs_canceled"] == 1
        await until_final(node, running)
        assert (await shown(node, running)).status == "canceled"
        later = await start(parts)
        await until_final(node, later)
        run = await shown(node, later)
        assert (run.sealed, run.is_readable, run.status) == (f"{IDA}-2", True, "completed")
        assert WORD.encode() not in await raw(node, running) + await raw(node, later)


@virtual_time
async def test_a_waiting_run_is_canceled_at_once() -> None:
    async with a_node() as node:
        parts = await switched(node)
        run_id = await start(parts)
        await erase(parts)
        assert (await node.run(run_id)).status == "canceled"


@virtual_time
async def test_a_run_that_slipped_through_is_ended_by_its_executor() -> None:
    async with a_node() as node:
        parts = await switched(node)
        run_id = await start(parts)
        await node.keys.destroy("tnt_a", f"{IDA}-1")  # as if the erasure had not seen it
        await settle(2)
        models = Models(WORD)
        Executor(node, models, Tools({}))
        await until_final(node, run_id)
        run = await node.run(run_id)
        assert run.error is not None
        assert (run.status, run.error.code) == ("failed", "erased")
        assert models.made == []


@virtual_time
async def test_a_handler_that_knows_of_no_erasure_yet_takes_the_next_key() -> None:
    async with a_node() as node:
        parts = await switched(node)
        other = await node.handlers()
        await start(parts)
        await start(other)
        await erase(parts)
        run = await shown(node, await start(other))
        assert (run.sealed, run.is_readable) == (f"{IDA}-2", True)


@virtual_time
async def test_many_erasures_and_runs_at_once_leave_each_run_whole_or_erased() -> None:
    async with a_node() as node:
        parts = await switched(node)
        other = await node.handlers()
        Executor(node, Models(*[WORD] * 40, takes_s=0.5), Tools({}))
        starts = [start((parts, other)[n % 2]) for n in range(20)]
        erasures = [_later(n * 0.3, erase((parts, other)[n % 2])) for n in range(4)]
        run_ids = (await asyncio.gather(*starts, *erasures))[:20]
        for run_id in run_ids:
            await until_final(node, str(run_id))
            run = await shown(node, str(run_id))
            assert run.is_readable or run.status in ("canceled", "failed", "completed")
            assert WORD.encode() not in await raw(node, str(run_id))
        subject = await _subject(node)
        assert not subject.is_pending
        for key_id in subject.erased_keys():
            assert await node.keys.read("tnt_a", key_id) == b""


async def _later(seconds: float, what: Any) -> Any:
    await asyncio.sleep(seconds)
    return await what


async def _subject(node: Node) -> DataSubject:
    ref = subject_ref("tnt_a", IDA)
    return DataSubject(ref).fold(await MemoryLog.read(node.log, ref))


@pytest.mark.parametrize("point", ["after_subject_erased", "after_key_destroyed"])
@virtual_time
async def test_an_erasure_that_was_broken_off_is_seen_through_by_the_next_start(
    point: str,
) -> None:
    async with a_node() as node:
        parts = await switched(node, crash_point=crash_at(f"handlers.{point}"))
        run_id = await start(parts)
        with pytest.raises(Crash):
            await erase(parts)
        assert (await _subject(node)).is_pending
        again = await node.handlers()
        subject = await _subject(node)
        assert not subject.is_pending
        assert subject.report["runs"] == 1
        assert await node.keys.read("tnt_a", f"{IDA}-1") == b""
        assert (await node.run(run_id)).status == "canceled"
        report = await erase(again)
        assert (report["done_now"], report["erased"], report["runs"]) == (False, True, 1)


@virtual_time
async def test_what_came_after_an_erasure_that_was_broken_off_is_erased_by_the_next() -> None:
    async with a_node() as node:
        parts = await switched(node, crash_point=crash_at("handlers.after_subject_erased"))
        other = await node.handlers()
        before = await start(parts)
        with pytest.raises(Crash):
            await erase(parts)
        after = await start(other)
        assert (await shown(node, after)).sealed == f"{IDA}-2"
        assert (await erase(other, dry_run=True))["done_now"] is False
        report = await erase(other)
        assert (report["done_now"], report["erased"], report["runs"]) == (True, True, 1)
        for run_id in (before, after):
            assert not (await shown(node, run_id)).is_readable
        subject = await _subject(node)
        assert (subject.is_pending, subject.generation) == (False, 3)
        for key_id in subject.erased_keys():
            assert await node.keys.read("tnt_a", key_id) == b""
        assert (await erase(other))["done_now"] is False


@virtual_time
async def test_a_key_that_a_backup_brought_back_is_destroyed_at_the_start() -> None:
    async with a_node() as node:
        parts = await switched(node)
        run_id = await start(parts)
        body = await node.keys.read("tnt_a", f"{IDA}-1")
        assert body
        await erase(parts)
        node.keys._kept["tnt_a", f"{IDA}-1"] = body  # as a restored older bucket has it
        await node.handlers()
        assert await node.keys.read("tnt_a", f"{IDA}-1") == b""
        assert not (await shown(node, run_id)).is_readable


@virtual_time
async def test_an_idempotency_key_names_its_run_after_the_erasure_too() -> None:
    async with a_node() as node:
        parts = await switched(node)
        run_id = await start(parts, key="once")
        await erase(parts)
        assert await start(parts, key="once") == run_id


@virtual_time
async def test_a_fork_stays_its_subjects_and_there_is_none_of_what_is_erased() -> None:
    async with a_node() as node:
        parts = await switched(node)
        Executor(node, Models(["tool.a"], WORD, WORD), Tools({"tool.a": Tool()}))
        run_id = await start(parts)
        await until_final(node, run_id)
        command = ForkRun(traceparent=TRACE, run_id=run_id, from_step=3)
        answer = await fork_run(parts, caller(principal_id="usr_other"), command)
        forked = await shown(node, answer["run"]["run_id"])
        assert (forked.sealed, forked.created.principal.principal_id) == (f"{IDA}-1", "usr_other")
        assert WORD.encode() not in await raw(node, forked.ref.aggregate_id)
        await erase(parts)
        with pytest.raises(SubjectErasedError):
            await fork_run(parts, caller(), command)


@virtual_time
async def test_a_fork_of_a_sealed_run_is_sealed_after_the_switch_is_off_too() -> None:
    async with a_node() as node:
        parts = await switched(node)
        Executor(node, Models(["tool.a"], WORD, WORD), Tools({"tool.a": Tool()}))
        run_id = await start(parts)
        await until_final(node, run_id)
        await send(parts, "tenant.update", changes={"privacy": {"erasure": False}})
        assert (await shown(node, await start(parts))).sealed == ""
        command = ForkRun(traceparent=TRACE, run_id=run_id, from_step=3)
        forked = (await fork_run(parts, caller(), command))["run"]["run_id"]
        await until_final(node, forked)
        assert (await shown(node, forked)).sealed == f"{IDA}-1"
        assert WORD.encode() not in await raw(node, forked)


@virtual_time
async def test_only_who_administers_the_tenant_may() -> None:
    async with a_node() as node:
        parts = await switched(node)
        await start(parts)
        with pytest.raises(ForbiddenError):
            await erase(parts, auth=caller())
        with pytest.raises(NotFoundError):
            await erase(parts, auth=admin("tnt_b"))
        assert (await erase(parts, dry_run=True))["runs"] == 1


@virtual_time
async def test_a_subject_that_is_not_there_is_nothing_to_erase() -> None:
    async with a_node() as node:
        parts = await switched(node)
        report = await erase(parts, "usr_nobody")
        assert (report["done_now"], report["erased"], report["runs"]) == (False, False, 0)
        assert not await MemoryLog.read(
            node.log, subject_ref("tnt_a", subject_id_of("tnt_a", "usr_nobody"))
        )


@virtual_time
async def test_events_say_nothing_of_the_person() -> None:
    async with a_node() as node:
        parts = await switched(node)
        await start(parts)
        await erase(parts)
        records = await MemoryLog.read(node.log, subject_ref("tnt_a", IDA))
        assert all(b"usr_ida" not in record.body for record in records)
        events = [event for r in records for event in read_events(r, DataSubject.PAYLOADS)]
        assert [event.type for event in events] == [
            "agentos.subject.erased",
            "agentos.subject.erasure_completed",
        ]


def peers_lines() -> list[str]:
    """Return the events of a run that a peer executes, as it shows them."""
    ids, run = Ids(900), Run(run_ref("tnt_a", "run_1"))
    run.create("agt_b", created(WORD), moment(T0, ids))
    run.start("wrk_b", moment(T0, ids))
    run.complete(Output(text=WORD), moment(T0, ids))
    return [to_line(event, rfc3339(event.time)).decode() for event in run.collect()]


@virtual_time
async def test_what_is_known_of_a_run_at_a_peer_is_sealed_and_erased_too() -> None:
    async with a_node() as node:
        parts = await switched(node)
        context = {"user_id": "usr_ida"}
        request = {"input": {"type": "text", "text": WORD}, "context": context}
        asked = {"agent_id": "agt_b", "request": request, "stack_id": "stk_b", "selector": {}}
        forward = (await tell(parts, "forward.request", **asked))["forward"]
        assert forward["requested"]["run_request"]["input"]["text"] == WORD
        await tell(
            parts,
            "forward.accept",
            forward_id=forward["forward_id"],
            remote_run_id="run_1",
            remote_events_url="http://peer/v1/runs/run_1/events",
            status="queued",
        )
        lines = peers_lines()
        await tell(parts, "remote.copy", run_id="run_1", lines=lines)
        pushed = {"source_stack_id": "stk_b", "run_id": "run_1", "lines": lines}
        assert (await tell(parts, "events.ingest", **pushed))["accepted"] == len(lines)
        kinds = ("federation", "remote", "ingest")
        records = [r for kind in kinds for r in await node.log.last_of_kind(kind, "tnt_a")]
        assert len(records) == len(kinds)
        assert {r.sealed for r in records} == {f"{IDA}-1"}
        stored = await all_of(node, *kinds)
        assert WORD.encode() not in stored
        copy = remote_ref("tnt_a", "run_1")
        opened = RemoteRun(copy).fold(await node.opened_log().read(copy))
        assert opened.view()["output"] == {"type": "text", "text": WORD}
        assert [line.decode() for _, line in copied_lines(await node.opened_log().read(copy))] == (
            lines
        )
        assert (await erase(parts))["runs"] == 1
        await settle(2)
        erased = RemoteRun(copy).fold(await node.opened_log().read(copy))
        assert erased.view()["output"] == {"type": "text", "text": "[erased]", "erased": True}
        assert await all_of(node, *kinds) == stored


async def all_of(node: Node, *kinds: str) -> bytes:
    tail = MemoryLog.tail(node.log, after=0, kinds=kinds, tenant_id="tnt_a")
    records = (await anext(tail)).records
    await tail.aclose()  # type: ignore[attr-defined]  # a generator
    return b"\n".join(record.body for record in records)


async def tell(parts: Parts, name: str, /, **command: Any) -> dict[str, Any]:
    message = {"auth": caller().model_dump(mode="json"), "command": command}
    message["command"]["traceparent"] = TRACE
    return await handle(parts, name, message)


@virtual_time
async def test_a_capsule_of_a_sealed_run_is_plain_and_replays() -> None:
    async with a_node() as node:
        parts = await switched(node)
        Executor(node, Models(["tool.a"], WORD), Tools({"tool.a": Tool()}))
        run_id = await start(parts)
        await until_final(node, run_id)
        records = await node.opened_log().read(run_ref("tnt_a", run_id))
        head, block = run_lines(records, "agt_a", None)
        stored = [line for record in records for line in record.stored_lines()]
        assert head.original_digest == lines_digest(stored)
        assert WORD.encode() in block
        assert node.definition is not None
        agent = agent_line("tnt_a", "agt_a", node.definition, str)
        (found,) = read_runs(b"\n".join((agent, block)).split(b"\n"))
        assert_replays(found.records, node.definition)
