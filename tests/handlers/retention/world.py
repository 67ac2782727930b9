"""A node in memory whose runs grow old, and what lets them go."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from agentos.domain.log import Recorded
from agentos.domain.retention.retention import RetentionApplied, gone_of, retention_ref
from agentos.domain.retention.rules import Kind, NodeRetention, age_ms
from agentos.domain.run.run import run_ref
from agentos.domain.subjects import heartbeat
from agentos.handlers.crash import never
from agentos.handlers.parts import Parts
from agentos.handlers.retention.keeper import RetentionKeeper, RetentionParts
from agentos.handlers.retention.readers import Readers
from agentos.infra.archive import ArchiveReader
from agentos.infra.memory.log import MemoryLog
from agentos.infra.retention import ArchiveDirectory
from tests.handlers.auditor.audited import audit_all
from tests.handlers.node import HOUR_MS, Node, a_node, create, settle
from tests.handlers.virtual import VirtualClock

DAY_MS = 24 * HOUR_MS


class World:
    """One node with one tenant, its handlers, and an archive directory."""

    def __init__(self, node: Node, parts: Parts, directory: Path) -> None:
        self.node = node
        self.parts = parts
        self.archives = ArchiveDirectory(directory)
        self.clock = VirtualClock()

    async def ended(self, count: int, **more: Any) -> list[str]:
        """Work some runs off; returns their ids."""
        runs = [(await create(self.parts, **more))["run"]["run_id"] for _ in range(count)]
        for run_id in runs:
            await self.node.finish(run_id, more.get("tenant_id", "tnt_a"))
        await self.freed(more.get("tenant_id", "tnt_a"))
        return runs

    async def freed(self, tenant_id: str = "tnt_a") -> None:
        """Wait until every slot is given back that is not held by a live run."""
        async with asyncio.timeout(10):
            while await self._held_by_none(tenant_id):
                await settle(0.005)

    async def _held_by_none(self, tenant_id: str) -> set[str]:
        active = (await self.node.admission(tenant_id)).active.keys()
        return active - await self.node.live(tenant_id)

    async def read_by_all(self) -> None:
        """Let the auditor and the projector have read everything."""
        await audit_all(self.node.log)
        await self.projected(await self.node.log.head())

    async def projected(self, position: int, service: str = "projector") -> None:
        """Let the projector say where it is."""
        beat = {"service": service, "worker_id": f"wrk_{service}", "position": position}
        await self.node.signals.publish(heartbeat(service, f"wrk_{service}"), to_json(beat))
        await settle()

    async def keeper(
        self,
        *,
        days: float = 91,
        runs: str = "90d",
        crash: Callable[[str], None] = never,
        has_archive: bool = True,
        others: dict[Kind, str] | None = None,
    ) -> RetentionKeeper:
        """Return what lets go, so many days from now; everything has been read by then."""
        self.clock = VirtualClock(round(days * DAY_MS))
        ages = {kind: age_ms(text) for kind, text in ({"runs": runs} | (others or {})).items()}
        known = {kind: age for kind, age in ages.items() if age is not None}
        readers = Readers(self.node.log)
        await readers.listen(self.node.signals)
        keeper = RetentionKeeper(
            RetentionParts(
                log=self.node.log,
                clock=self.clock,
                new_id=self.node.new_id,
                directory=self.parts.directory,
                readers=readers,
                rules=NodeRetention(known, 0, has_archive),  # type: ignore[arg-type]
                archives=self.archives if has_archive else None,
                idempotency_ttl_ms=24 * HOUR_MS,
                grace_s=0,
                patience_s=0.01,
                pace_s=0,
                crash_point=crash,
            )
        )
        await self.read_by_all()
        return keeper

    async def kept(self, run_ids: Sequence[str], tenant_id: str = "tnt_a") -> list[str]:
        """Return the runs that the log has."""
        refs = [run_ref(tenant_id, run_id) for run_id in run_ids]
        found = await self.node.log.last_many(refs)
        return [ref.aggregate_id for ref in refs if ref in found]

    async def gone(self, kind: Kind = "runs", tenant_id: str = "tnt_a") -> int:
        """Return how many went, as the log says."""
        return gone_of(await self.node.log.last(retention_ref(tenant_id)), kind).items

    def files(self) -> list[Path]:
        """Return what is in the archive directory."""
        return sorted(self.archives.directory.iterdir())

    def archived(self) -> list[Recorded]:
        """Return everything that stands in archives."""
        paths = [path for path in self.files() if path.name.endswith(".log.gz")]
        return [r for path in paths for chunk in ArchiveReader(path).chunks() for r in chunk]


async def round_of(keeper: RetentionKeeper) -> list[RetentionApplied]:
    """Make one round; returns the plans that it saw through."""
    return [applied async for _, applied in keeper.round()]


@asynccontextmanager
async def a_world(directory: Path, log: MemoryLog | None = None) -> AsyncIterator[World]:
    """A world that is closed at the end."""
    async with a_node(log) as node:
        await node.tenant()
        yield World(node, await node.handlers(), directory)
