"""What the orchestrator's routes work with, handed in by the app."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from starlette.requests import Request
from starlette.types import ASGIApp

from agentos.domain.ports import CommandBus, Contents, EventLog, Signals
from agentos.gateways.http.keys import KeyUsage
from agentos.gateways.http.sse import Streams
from agentos.gateways.http.tail import SharedTail
from agentos.projections.agents.queries import AgentPage, list_agents
from agentos.projections.audit_records.queries import (
    AuditFilters,
    AuditPage,
    find_audit_start,
    list_audit_records,
)
from agentos.projections.model_calls.queries import get_model_call
from agentos.projections.queries import Pool, ProjectionPosition, fetch, positions
from agentos.projections.remote_runs.queries import (
    count_sealed_remote_runs,
    get_remote_run,
    list_remote_runs,
    merged,
)
from agentos.projections.runs.queries import (
    RunFilters,
    RunPage,
    count_sealed_runs,
    get_run,
    list_runs,
)
from agentos.projections.usage_by_window.queries import UsageFilters, UsagePage, get_usage


class RunView(Protocol):
    """A run as the read model has it."""

    @property
    def position(self) -> int:
        """The log position of the last commit in it."""
        ...

    @property
    def sequence(self) -> int:
        """The sequence of the last event in it."""
        ...

    def view(self) -> dict[str, Any]:
        """Return the contract's `Run` object."""
        ...


class ReadModels(Protocol):
    """The read side's answers. `DependencyUnavailableError` (`postgres`) when it is down."""

    async def get_run(self, tenant_id: str, run_id: str) -> RunView | None:
        """Return a run's row."""
        ...

    async def get_remote_run(self, tenant_id: str, run_id: str) -> RunView | None:
        """Return the row of a run that a peer executes."""
        ...

    async def list_runs(
        self, tenant_id: str, filters: RunFilters, limit: int, cursor: str | None
    ) -> RunPage:
        """Return a page of runs, newest first."""
        ...

    async def list_agents(self, tenant_id: str, limit: int, cursor: str | None) -> AgentPage:
        """Return a page of agents."""
        ...

    async def get_usage(
        self, tenant_id: str, filters: UsageFilters, limit: int, cursor: str | None
    ) -> UsagePage:
        """Return a page of usage, the newest window first."""
        ...

    async def get_model_call(self, tenant_id: str, request_id: str) -> dict[str, Any] | None:
        """Return what became of one model call."""
        ...

    async def list_audit_records(
        self, tenant_id: str, filters: AuditFilters, limit: int, cursor: str | None
    ) -> AuditPage:
        """Return a page of a tenant's audit records, newest first."""
        ...

    async def find_audit_start(
        self, tenant_id: str, filters: AuditFilters, since: int | None, last: int
    ) -> tuple[int, int]:
        """Return the log position and line behind which a stream of audit records begins."""
        ...

    async def count_sealed(self, tenant_id: str, key_id: str) -> Mapping[str, int]:
        """Return how many rows of each projection hold content sealed with a key."""
        ...

    async def positions(self) -> list[ProjectionPosition]:
        """Return where every projection stands."""
        ...

    async def ping(self) -> None:
        """Return if the read side answers."""
        ...


class PostgresReadModels:
    """The read models in PostgreSQL, by their queries."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def get_run(self, tenant_id: str, run_id: str) -> RunView | None:
        """Return a run's row."""
        return await get_run(self._pool, tenant_id, run_id)

    async def get_remote_run(self, tenant_id: str, run_id: str) -> RunView | None:
        """Return the row of a run that a peer executes."""
        return await get_remote_run(self._pool, tenant_id, run_id)

    async def list_runs(
        self, tenant_id: str, filters: RunFilters, limit: int, cursor: str | None
    ) -> RunPage:
        """Return a page of runs, newest first: of this node's and of those at peers."""
        page, remote = await asyncio.gather(
            list_runs(self._pool, tenant_id, filters, limit, cursor),
            list_remote_runs(self._pool, tenant_id, filters, limit + 1, cursor),
        )
        return merged(page, remote, tenant_id, filters, limit) if remote else page

    async def list_agents(self, tenant_id: str, limit: int, cursor: str | None) -> AgentPage:
        """Return a page of agents."""
        return await list_agents(self._pool, tenant_id, limit, cursor)

    async def get_usage(
        self, tenant_id: str, filters: UsageFilters, limit: int, cursor: str | None
    ) -> UsagePage:
        """Return a page of usage, the newest window first."""
        return await get_usage(self._pool, tenant_id, filters, limit, cursor)

    async def get_model_call(self, tenant_id: str, request_id: str) -> dict[str, Any] | None:
        """Return what became of one model call."""
        return await get_model_call(self._pool, tenant_id, request_id)

    async def list_audit_records(
        self, tenant_id: str, filters: AuditFilters, limit: int, cursor: str | None
    ) -> AuditPage:
        """Return a page of a tenant's audit records, newest first."""
        return await list_audit_records(self._pool, tenant_id, filters, limit, cursor)

    async def find_audit_start(
        self, tenant_id: str, filters: AuditFilters, since: int | None, last: int
    ) -> tuple[int, int]:
        """Return the log position and line behind which a stream of audit records begins."""
        return await find_audit_start(self._pool, tenant_id, filters, since, last)

    async def count_sealed(self, tenant_id: str, key_id: str) -> Mapping[str, int]:
        """Return how many rows of each projection hold content sealed with a key."""
        return {
            "runs": await count_sealed_runs(self._pool, tenant_id, key_id),
            "remote_runs": await count_sealed_remote_runs(self._pool, tenant_id, key_id),
        }

    async def positions(self) -> list[ProjectionPosition]:
        """Return where every projection stands."""
        return await positions(self._pool)

    async def ping(self) -> None:
        """Return if PostgreSQL answers."""
        await fetch(self._pool, "SELECT 1", ())


class Elsewhere(Protocol):
    """The runs of this node's tenants that peers execute."""

    async def settled(self, tenant_id: str, run_id: str) -> None:
        """Return once the log has the run, if a caller was told of it just now."""
        ...

    async def events(self, request: Request) -> ASGIApp:
        """Return the stream of such a run's events; `NotFoundError`."""
        ...

    async def cancel(self, request: Request) -> ASGIApp:
        """Stop such a run where it is executed; `NotFoundError`."""
        ...

    async def decide(self, request: Request) -> ASGIApp:
        """Decide on a tool call of such a run; `NotFoundError`."""
        ...

    async def approvals(self, request: Request) -> ASGIApp:
        """Return what such a run has asked people for; `NotFoundError`."""
        ...

    async def ended(self, tenant_id: str, run_id: str, until: float) -> None:
        """Return once the end of such a run is here, or the loop's time is `until`."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The ports and shared parts behind the routes. Times are seconds."""

    bus: CommandBus
    log: EventLog
    signals: Signals
    reads: ReadModels
    tail: SharedTail
    streams: Streams
    cancel_s: float = 10.0
    key_usage: KeyUsage | None = None
    elsewhere: Elsewhere | None = None
    contents: Contents | None = None

    async def opened(self, tenant_id: str, view: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a `Run` object of a read model with its content opened."""
        if self.contents is None:
            return view
        return await self.contents.open_view(tenant_id, view)


def parts_of(request: Request) -> Parts:
    """Return the parts that the app was made with."""
    return cast("Parts", request.app.state.parts)
