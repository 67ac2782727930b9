"""A read of one object sees every write before it, whatever the read model's lag."""

import asyncio
from typing import Any, Final

from agentos.domain.agent.agent import Agent, agent_ref
from agentos.domain.errors import AgentOSError, NotFoundError
from agentos.domain.federation.remote import RemoteRun, remote_ref
from agentos.domain.log import Recorded
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.run.run import FINAL, Run, run_ref
from agentos.domain.subjects import StreamRef
from agentos.gateways.orchestrator.parts import Parts, RunView

ROW_S: Final = 0.5


async def load_run(parts: Parts, tenant_id: str, run_id: str) -> dict[str, Any]:
    """Return the contract's `Run` object as the log has it at this moment.

    The row serves if it is as far as the log; else the run is folded. So it works with
    PostgreSQL down too. Raises `NotFoundError`, `DependencyUnavailableError`.
    """
    ref = run_ref(tenant_id, run_id)
    row, last = await asyncio.gather(_row(parts, tenant_id, run_id), parts.log.last(ref))
    if last is None:
        return await load_remote_run(parts, tenant_id, run_id)
    if row is not None and row.position >= last.position:
        return row.view()
    return folded_run(ref.tenant_id, run_id, await parts.log.read(ref))


async def load_remote_run(parts: Parts, tenant_id: str, run_id: str) -> dict[str, Any]:
    """Return a run that a peer executes for this tenant, as the copy has it; `NotFoundError`."""
    if parts.elsewhere is not None:
        await parts.elsewhere.settled(tenant_id, run_id)
    ref = remote_ref(tenant_id, run_id)
    return RemoteRun(ref).fold(await parts.log.read(ref)).view()


async def has_ended(parts: Parts, ref: StreamRef) -> bool:
    """Whether the run's last commit is its end: one question to the log, nothing folded.

    Raises `NotFoundError` when there is no such run.
    """
    last = await parts.log.last(ref)
    if last is None or last.is_void:
        raise NotFoundError("no such run")
    return last.types[-1] in FINAL_TYPES


def folded_run(tenant_id: str, run_id: str, records: list[Recorded]) -> dict[str, Any]:
    """Return the `Run` object that the records tell; `NotFoundError` for none or a void."""
    run = Run(run_ref(tenant_id, run_id)).fold(records)
    if run.status is None:
        raise NotFoundError("no such run")
    return run.view()


def is_final(view: dict[str, Any]) -> bool:
    """Whether a `Run` object has ended."""
    return view["status"] in FINAL


async def load_agent(parts: Parts, tenant_id: str, agent_id: str) -> dict[str, Any]:
    """Return the contract's `Agent` object, folded from the log: agents have few events."""
    ref = agent_ref(tenant_id, agent_id)
    return Agent(ref).fold(await parts.log.read(ref)).view()


async def _row(parts: Parts, tenant_id: str, run_id: str) -> RunView | None:
    """Return the row, or `None` when there is none, or no database that answers soon."""
    try:
        async with asyncio.timeout(ROW_S):
            return await parts.reads.get_run(tenant_id, run_id)
    except (TimeoutError, AgentOSError):
        return None
