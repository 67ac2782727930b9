"""Denials in company: all are counted, few are written, nothing is lost on the way."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.audit.chain import Entry
from agentos.domain.auth import Principal, system_auth
from agentos.domain.errors import DependencyUnavailableError
from agentos.handlers.audit import note_denials, record, record_denials
from agentos.handlers.commands import NoteDenials
from agentos.handlers.denials import A_SECOND, KINDS, Denials
from agentos.infra.memory.log import MemoryLog
from tests.domain.given import TRACE
from tests.handlers.auditor.audited import records_of
from tests.handlers.node import Node

actions = st.sampled_from(["auth.denied", "runs.create", "policy.check", "secrets.access"])
outcomes = st.sampled_from(["allowed", "denied"])
noted = st.lists(
    st.tuples(actions, st.sampled_from("abcdefghijklmno"), outcomes, st.integers(1, 50)),
    max_size=60,
)


def entry(action: str, resource: str, outcome: Any = "denied") -> Entry:
    who = Principal(principal_id="usr_a")
    return Entry(who, action, resource, outcome, f"req_{resource}", meta={"source": "192.0.2.1"})


def count_of(entries: list[Entry]) -> int:
    return sum(int(e.meta["count"] or 0) for e in entries)


@given(noted)
def test_all_are_counted_and_few_are_written(said: list[tuple[str, str, str, int]]) -> None:
    denials = Denials()
    for action, resource, outcome, count in said:
        denials.note("tnt_a", entry(action, resource, outcome), count)
    taken = denials.take().get("tnt_a", [])
    assert denials.take() == {}
    for outcome in ("allowed", "denied"):
        total = sum(count for _, _, o, count in said if o == outcome)
        assert count_of([e for e in taken if e.outcome == outcome]) == total
    secrets = {(r, o) for action, r, o, _ in said if action == "secrets.access"}
    found = [e for e in taken if e.action == "secrets.access"]
    assert len(found) == len(secrets) == len({(e.resource, e.outcome) for e in found})
    assert all("kinds" not in e.meta for e in found)
    assert len(taken) - len(found) <= A_SECOND


@given(noted)
def test_what_was_put_back_is_taken_again(said: list[tuple[str, str, str, int]]) -> None:
    denials = Denials()
    for action, resource, outcome, count in said:
        denials.note("tnt_a", entry(action, resource, outcome), count)
    first = denials.take().get("tnt_a", [])
    denials.put_back("tnt_a", first)
    assert count_of(denials.take().get("tnt_a", [])) == count_of(first)


class AwayLog(MemoryLog):
    """A log that cannot be written to for a while."""

    is_away = True

    async def append(self, commit: Any, *, expected: int) -> int:
        if self.is_away and commit.ref.kind == "audit":
            raise DependencyUnavailableError("away", dependency="nats")
        return await super().append(commit, expected=expected)


async def test_what_cannot_be_recorded_waits() -> None:
    node = Node(log := AwayLog())
    parts = await node.handlers()
    parts.denials.note("tnt_a", entry("runs.create", "agt_a"), 3)
    await record_denials(parts)
    parts.denials.note("tnt_a", entry("runs.create", "agt_a"), 4)
    log.is_away = False
    await record_denials(parts)
    await record_denials(parts)
    records = await records_of(log, "tnt_a")
    assert {(r["action"], r["outcome"]) for r in records} == {("runs.create", "denied")}
    assert sum(r["meta"]["count"] for r in records) == 7
    await node.close()


async def test_an_older_gateways_denial_is_taken_in_as_ever() -> None:
    node = Node()
    parts = await node.handlers()
    denial = {"resource": "GET /v1/runs", "reason": "no_credential", "source": "::1", "count": 2}
    command = NoteDenials.model_validate({"traceparent": TRACE, "denials": [denial]})
    await note_denials(parts, system_auth("tnt_node"), command)
    await record_denials(parts)
    (record,) = await records_of(node.log, "tnt_node")
    assert (record["action"], record["principal"]["principal_id"]) == ("auth.denied", "anonymous")
    assert record["meta"] == {"source": "::1", "count": 2}
    await node.close()


class UnclearLog(MemoryLog):
    """A log that does not say whether it has written an audit record; or does not answer at all."""

    writes = False
    hangs = False
    is_away = True

    async def append(self, commit: Any, *, expected: int) -> int:
        if not self.is_away or commit.ref.kind != "audit":
            return await super().append(commit, expected=expected)
        if self.writes:
            await super().append(commit, expected=expected)
        if self.hangs:
            await asyncio.Event().wait()
        raise DependencyUnavailableError("no acknowledgement came", dependency="nats")


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("another_is_first", [True, False])
async def test_an_unclear_append_neither_doubles_nor_loses(
    writes: bool, another_is_first: bool
) -> None:
    node = Node(log := UnclearLog())
    log.writes = writes
    parts = await node.handlers()
    parts.denials.note("tnt_a", entry("runs.create", "agt_a"), 3)
    await record_denials(parts)
    await record_denials(parts)
    parts.denials.note("tnt_a", entry("runs.create", "agt_a"), 4)
    log.is_away = False
    if another_is_first:
        await record(parts, "tnt_a", [entry("runs.create", "agt_b")])
    for _ in range(3):
        await record_denials(parts)
    records = await records_of(log, "tnt_a")
    assert sum(r["meta"].get("count", 0) for r in records) == 7
    await node.close()


@pytest.mark.parametrize("writes", [True, False])
async def test_an_orderly_stop_in_the_middle_loses_nothing(writes: bool) -> None:
    node = Node(log := UnclearLog())
    log.writes, log.hangs = writes, True
    parts = await node.handlers()
    tenants = [f"tnt_{n}" for n in range(5)]
    for tenant_id in tenants:
        parts.denials.note(tenant_id, entry("runs.create", "agt_a"), 3)
    task = asyncio.create_task(record_denials(parts))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    log.is_away = False
    await record_denials(parts)
    for tenant_id in tenants:
        (one,) = await records_of(log, tenant_id)
        assert one["meta"]["count"] == 3
    await node.close()


def test_kinds_beyond_those_told_apart_are_counted_too() -> None:
    denials = Denials()
    for n in range(KINDS + 50):
        denials.note("tnt_a", entry("runs.create", f"agt_{n}"))
        denials.note("tnt_a", entry("secrets.access", f"key_{n}", "allowed"))
    assert len(denials._counts["tnt_a"]) <= 2 * KINDS + 100
    taken = denials.take()["tnt_a"]
    assert count_of([e for e in taken if e.action == "runs.create"]) == KINDS + 50
    assert count_of([e for e in taken if e.action == "secrets.access"]) == KINDS + 50
    assert "various" in {e.resource for e in taken}
