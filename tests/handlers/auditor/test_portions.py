"""However much one commit of the log causes: all of it is recorded, once, in commits that fit."""

import pytest

from agentos.domain.audit.chain import Entry, chain_ref
from agentos.domain.auth import PolicyContext, Principal
from agentos.domain.errors import PayloadTooLargeError
from agentos.domain.log import Commit
from agentos.domain.run.request import RunRequest
from agentos.domain.subjects import StreamRef
from agentos.handlers.auditor import chains as chains_module
from agentos.handlers.auditor.chains import Caused, Chains
from agentos.handlers.auditor.parts import AuditorParts
from agentos.handlers.commands import CreateRun
from agentos.handlers.crash import CrashPoint, never
from agentos.handlers.runs import create_run
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.memory.log import MemoryLog
from tests.domain.audit.keys import signer
from tests.domain.given import TRACE
from tests.handlers.auditor.audited import Crash, audit_all, crash_at, records_of, sign, verdict
from tests.handlers.node import a_node, caller

WHO = Principal(principal_id="usr_b")
SMALL = 16 * 1024


def caused(position: int, count: int, width: int = 100) -> Caused:
    entries = [
        Entry(WHO, "runs.end", "x" * width, "allowed", f"evt_{position}_{n}") for n in range(count)
    ]
    return Caused(position, entries)


def chains_on(log: MemoryLog, crash_point: CrashPoint = never) -> Chains:
    return Chains(AuditorParts(log, SystemClock(), SystemIds(), signer(), crash_point))


async def have_causes(log: MemoryLog) -> None:
    """The causes themselves, which stand before their records."""
    for number in range(4):
        ref = StreamRef("tnt_a", "run", f"run_{number}")
        await log.append(Commit(ref, f"cmt_{number}", 1, (), b""), expected=0)


async def causes_in(log: MemoryLog) -> list[str]:
    return [record["cause"] for record in await records_of(log, "tnt_a")]


@pytest.mark.parametrize("width", [100, 4000])
@pytest.mark.parametrize("point", ["auditor.before_append", "auditor.after_append"])
@pytest.mark.parametrize("times", [1, 2, 3, 9])
async def test_a_cause_of_any_size_is_recorded_once_whatever_ends_the_auditor(
    width: int, point: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chains_module, "BYTES", SMALL)
    work = [caused(1, 2), caused(2, 90, width), caused(3, 1), caused(4, 30, width)]
    expected = [entry.cause for cause in work for entry in cause.entries]
    log = MemoryLog()
    await have_causes(log)
    with pytest.raises(Crash):
        await chains_on(log, crash_at(point, times)).write("tnt_a", work)
    chains = chains_on(log)
    await chains.write("tnt_a", work)
    assert await causes_in(log) == expected
    assert chains.covered("tnt_a") == 4
    commits = await log.read(chain_ref("tnt_a"))
    assert max(len(commit.body) for commit in commits) <= SMALL
    assert (await verdict(log, "tnt_a")).first_bad is None
    await chains_on(log).write("tnt_a", work)
    assert await causes_in(log) == expected


class NarrowLog(MemoryLog):
    """A log that takes less than anybody thought, and keeps what it refused."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.refused: list[bytes] = []

    async def append(self, commit: Commit, *, expected: int) -> int:
        if len(commit.body) > self.most:
            self.refused.append(commit.body)
            raise PayloadTooLargeError("too large")
        return await super().append(commit, expected=expected)


async def test_a_commit_that_the_log_refuses_is_not_sent_again_as_it_is() -> None:
    log = NarrowLog(SMALL)
    await have_causes(log)
    await chains_on(log).write("tnt_a", [caused(1, 5), caused(2, 200)])
    assert len(await causes_in(log)) == 205
    assert log.refused
    assert len(log.refused) < 10
    causes = [tuple(line.split(b'"cause"')[1] for line in b.split(b"\n")) for b in log.refused]
    assert len(set(causes)) == len(causes)


async def test_one_record_that_fits_nowhere_ends_it() -> None:
    with pytest.raises(PayloadTooLargeError):
        await chains_on(NarrowLog(100)).write("tnt_a", [caused(1, 3)])


async def test_a_long_policy_context_of_an_older_run_does_not_stop_the_audit() -> None:
    """Logs from before the bounds: each of the run's records would have held all of it."""
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        huge = PolicyContext.model_construct(
            data_classification="x" * 3_000_000, consent_tags=("y" * 1000,) * 1000
        )
        auth = caller().model_copy(update={"policy_context": huge})
        request = RunRequest.model_validate({"input": {"type": "text", "text": "hi"}})
        command = CreateRun(traceparent=TRACE, agent_id="agt_a", request=request)
        made = await create_run(parts, auth, command)
        await create_run(parts, auth, command)
        await create_run(parts, auth, command)
        await node.finish(made["run"]["run_id"])
        await sign(await audit_all(node.log))
        records = await records_of(node.log, "tnt_a")
        assert [r["action"] for r in records][2:] == ["runs.create"] * 3 + ["runs.end"]
        assert all(len(str(r)) < 16_000 for r in records)
        assert (await verdict(node.log, "tnt_a")).first_bad is None
