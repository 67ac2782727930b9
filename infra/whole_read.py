"""Reading the log from the beginning, while retention waits for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from pydantic_core import to_json

from agentos.domain.ports import EventLog, Signals
from agentos.domain.retention.retention import KIND, RetentionPlanned, begun_plans, retention_ref
from agentos.domain.subjects import heartbeat
from agentos.infra.clock import SystemIds

SERVICE: Final = "reader"
BEAT_S: Final = 0.5


@asynccontextmanager
async def whole_read(signals: Signals) -> AsyncIterator[None]:
    """Let retention wait for as long as the block takes.

    A plan that is about to begin at this very moment does not hear of it: who reads compares
    `all_begun` of before and after.
    """
    beating = asyncio.create_task(_beat(signals))
    try:
        yield
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


async def _beat(signals: Signals) -> None:
    worker_id = SystemIds()("wrk")
    beat = to_json({"service": SERVICE, "worker_id": worker_id})
    while True:
        await signals.publish(heartbeat(SERVICE, worker_id), beat)
        await asyncio.sleep(BEAT_S)


async def all_begun(log: EventLog) -> list[tuple[str, RetentionPlanned]]:
    """Return tenant and plan of everything that may be gone."""
    found = []
    for last in await log.last_of_kind(KIND):
        tenant_id = last.ref.tenant_id
        records = await log.read(retention_ref(tenant_id))
        found += [(tenant_id, plan) for plan in begun_plans(records)]
    return found
