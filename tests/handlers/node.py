"""A node in memory: one log, one queue, and as many handler and executor processes as wanted."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from agentos.domain.admission.admission import Admission, admission_ref
from agentos.domain.agent.agent import Agent, Definition, agent_ref
from agentos.domain.auth import USER_SCOPES, AuthContext, Principal, system_auth
from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.log import Commit, Recorded, make_commit
from agentos.domain.ports import EventLog
from agentos.domain.run.events import Output
from agentos.domain.run.request import RunRequest
from agentos.domain.run.run import Run, run_ref
from agentos.domain.subjects import StreamRef, heartbeat
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.handlers.admission import AdmissionDesks
from agentos.handlers.commands import CancelRun, CreateRun, UpdateTenant
from agentos.handlers.crash import CrashPoint, never
from agentos.handlers.directory import Directory
from agentos.handlers.dispatch import Dispatcher
from agentos.handlers.erasure import resume_erasures
from agentos.handlers.ledgers import LedgerDesks
from agentos.handlers.parts import Parts
from agentos.handlers.runs import cancel_run, create_run
from agentos.handlers.sweep import load_unfinished
from agentos.handlers.tenants import update_tenant
from agentos.handlers.usage_desks import UsageDesks
from agentos.handlers.watch import LogWatch
from agentos.infra.memory.key_store import MemoryKeyStore
from agentos.infra.memory.log import MemoryLog
from agentos.infra.memory.queue import MemoryQueue
from agentos.infra.memory.signals import MemorySignals
from agentos.infra.privacy.cipher import Cipher
from agentos.infra.privacy.keyring import Keyring
from agentos.infra.privacy.sealed_log import SealedLog
from tests.domain.given import TRACE, Ids, moment
from tests.handlers.virtual import VirtualClock

HOUR_MS = 3_600_000


class UnevenLog(MemoryLog):
    """A log whose answers take random turns, and whose appends fail when told to.

    `fail(commit)` says `"before"` or `"after"` for an append that is not acknowledged (not
    written, or written), anything else lets it be.
    """

    def __init__(self, seed: int = 0, longest_s: float = 0.001) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._longest_s = longest_s
        self.fail: Callable[[Commit], str | None] = lambda _: None
        self.appends = 0

    async def _turn(self) -> None:
        await asyncio.sleep(self._random.random() * self._longest_s)

    async def append(self, commit: Commit, *, expected: int) -> int:
        self.appends += 1
        how = self.fail(commit)
        await self._turn()
        if how == "before":
            raise DependencyUnavailableError("the log is away", dependency="nats")
        position = await super().append(commit, expected=expected)
        await self._turn()
        if how == "after":
            raise DependencyUnavailableError("no acknowledgement came", dependency="nats")
        return position

    async def last(self, ref: StreamRef) -> Recorded | None:
        await self._turn()
        return await super().last(ref)

    async def last_many(self, refs: Sequence[StreamRef]) -> dict[StreamRef, Recorded]:
        await self._turn()
        return await super().last_many(refs)

    async def read(self, ref: StreamRef, *, after: int = 0) -> list[Recorded]:
        await self._turn()
        records = await super().read(ref, after=after)
        await self._turn()
        return records

    async def head(self) -> int:
        await self._turn()
        return await super().head()


class Node:
    """What the processes of a node share, and how a test drives it."""

    def __init__(self, log: MemoryLog | None = None) -> None:
        self.log: MemoryLog = log or MemoryLog()
        self.queue = MemoryQueue()
        self.signals = MemorySignals()
        self.keys = MemoryKeyStore()
        self.clock = VirtualClock()
        self.new_id = Ids()
        self.definition: Definition | None = None  # of every agent, where an executor has one
        self._owned: list[asyncio.Task[None]] = []

    async def tenant(self, tenant_id: str = "tnt_a", **runs: Any) -> Tenant:
        """Make a tenant with these run quotas, and its agent `agt_a`."""
        tenant = Tenant(tenant_ref(tenant_id))
        quotas = {"runs": runs} if runs else {}
        profile = Profile.model_validate({"name": "A", "plan_tier": "demo", "quotas": quotas})
        await self.write(tenant.ref, tenant.create(profile, moment(new_id=self.new_id)), 0)
        agent = Agent(agent_ref(tenant_id, "agt_a"))
        definition = Definition(name="A", model_ref="builtin/echo")
        await self.write(agent.ref, agent.register(definition, moment(new_id=self.new_id)), 0)
        return tenant

    async def retention(self, tenant_id: str, **ages: str) -> None:
        """Say how long what of a tenant is kept, as a platform admin does."""
        parts = await self.handlers()
        command = UpdateTenant(traceparent=TRACE, tenant_id=tenant_id, changes={"retention": ages})
        await update_tenant(parts, system_auth(tenant_id), command)

    async def write(self, ref: StreamRef, events: Any, expected: int) -> int:
        """Append events as nobody in particular."""
        return await MemoryLog.append(
            self.log, make_commit(ref, events, self.new_id), expected=expected
        )

    def keyring(self) -> Keyring:
        """Return another process's keys."""
        return Keyring(self.keys, Cipher(b"the node's own key"))

    def opened_log(self, *, needs_keys: bool = False) -> SealedLog:
        """Return the log as another process reads it."""
        return SealedLog(self.log, self.keyring(), needs_keys=needs_keys)

    async def handlers(
        self,
        *,
        ttl_ms: int = 24 * HOUR_MS,
        slots: int = 64,
        skew_ms: int = 0,
        crash_point: CrashPoint = never,
    ) -> Parts:
        """Start a handler process."""
        keys = self.keyring()
        log: EventLog = SealedLog(self.log, keys)
        clock, watch = VirtualClock(skew_ms), LogWatch(log)
        desks = AdmissionDesks(log, watch, clock, self.new_id, ttl_ms)
        dispatcher = Dispatcher(self.queue, watch, clock, slots)
        watch.on_final = partial(_on_final, desks, dispatcher)
        watch.on_waiting = dispatcher.on_waiting
        parts = Parts(
            log=log,
            clock=clock,
            new_id=self.new_id,
            queue=self.queue,
            signals=self.signals,
            watch=watch,
            directory=Directory(log, watch),
            desks=desks,
            dispatcher=dispatcher,
            ledgers=LedgerDesks(log, clock, self.new_id),
            usage=UsageDesks(log, clock, self.new_id),
            idempotency_ttl_ms=ttl_ms,
            crash_point=crash_point,
            keys=keys,
        )
        await dispatcher.listen(self.signals)
        start = await log.head()
        await load_unfinished(parts)
        self.own(watch.run(start))
        self.own(dispatcher.run())
        await watch.reach(start)
        await resume_erasures(parts)
        return parts

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something until the node is closed."""
        task = asyncio.create_task(work)
        self._owned.append(task)
        return task

    async def close(self) -> None:
        """End every process."""
        for task in self._owned:
            task.cancel()
        await asyncio.gather(*self._owned, return_exceptions=True)

    async def beat(self, worker_id: str = "wrk_1", *, leaving: bool = False) -> None:
        """Let an executor be heard (or be gone)."""
        gone = b"true" if leaving else b"false"
        data = b'{"service":"executor","worker_id":"%s","leaving":%s}' % (worker_id.encode(), gone)
        await self.signals.publish(heartbeat("executor", worker_id), data)
        await settle()

    async def run(self, run_id: str, tenant_id: str = "tnt_a") -> Run:
        """Return a run as the log has it."""
        ref = run_ref(tenant_id, run_id)
        return Run(ref).fold(await MemoryLog.read(self.log, ref))

    async def stage(self, run: Run) -> None:
        """Write what was staged on a run."""
        run.position = await self.write(run.ref, run.collect(), run.position)

    async def start(self, run_id: str, worker_id: str = "wrk_1", tenant_id: str = "tnt_a") -> Run:
        """Take a run as an executor does."""
        run = await self.run(run_id, tenant_id)
        run.start(worker_id, moment(self.clock.now_ms(), self.new_id))
        await self.stage(run)
        return run

    async def finish(self, run_id: str, tenant_id: str = "tnt_a") -> None:
        """Work a run off."""
        run = await self.start(run_id, tenant_id=tenant_id)
        run.complete(Output(text="done"), moment(self.clock.now_ms(), self.new_id))
        await self.stage(run)

    async def admission(self, tenant_id: str = "tnt_a") -> Admission:
        """Return a tenant's admission as the log has it."""
        admission = Admission(admission_ref(tenant_id))
        admission.catch_up(await MemoryLog.read(self.log, admission.ref))
        return admission

    async def most_active(self, tenant_id: str = "tnt_a") -> int:
        """Return how many slots were held at most, over the whole log."""
        admission, most = Admission(admission_ref(tenant_id)), 0
        for record in await MemoryLog.read(self.log, admission.ref):
            admission.catch_up([record])
            most = max(most, len(admission.active))
        return most

    async def live(self, tenant_id: str = "tnt_a") -> set[str]:
        """Return the runs that are in the log and not final."""
        found = [r.ref for r in await self.log.last_of_kind("run", tenant_id)]
        runs = [await self.run(ref.aggregate_id, tenant_id) for ref in found]
        return {r.ref.aggregate_id for r in runs if r.status and not r.is_final}


def _on_final(desks: AdmissionDesks, dispatcher: Dispatcher, ref: StreamRef) -> None:
    desks.on_final(ref.tenant_id, ref.aggregate_id)
    dispatcher.on_final(ref)


@asynccontextmanager
async def a_node(log: MemoryLog | None = None) -> AsyncIterator[Node]:
    """A node that is closed at the end."""
    node = Node(log)
    try:
        yield node
    finally:
        await node.close()


def caller(tenant_id: str = "tnt_a", principal_id: str = "usr_a") -> AuthContext:
    """Return who asks."""
    principal = Principal(principal_id=principal_id)
    return AuthContext(tenant_id=tenant_id, principal=principal, scopes=USER_SCOPES)


async def create(
    parts: Parts,
    text: str = "hi",
    *,
    key: str | None = None,
    tenant_id: str = "tnt_a",
    agent_id: str = "agt_a",
    **options: Any,
) -> dict[str, Any]:
    """Ask for a run; returns `{run, position, existing}`."""
    request = RunRequest.model_validate(
        {
            "input": {"type": "text", "text": text},
            "run_options": options,
            "idempotency_key": key,
        }
    )
    command = CreateRun(traceparent=TRACE, agent_id=agent_id, request=request)
    return await create_run(parts, caller(tenant_id), command)


async def cancel(parts: Parts, run_id: str, command_id: str | None = None) -> dict[str, Any]:
    """Ask a run to stop."""
    command = CancelRun(traceparent=TRACE, run_id=run_id, command_id=command_id)
    return await cancel_run(parts, caller(), command)


async def settle(seconds: float = 0.05) -> None:
    """Let everything happen that happens within that (virtual) time."""
    await asyncio.sleep(seconds)
