"""An auditor on a log in memory, and what stands in the chains afterwards."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from agentos.domain.audit.chain import chain_ref
from agentos.domain.audit.checkpoint import checkpoints_ref
from agentos.domain.audit.verification import ChainVerifier
from agentos.domain.ports import EventLog
from agentos.domain.subjects import StreamRef
from agentos.handlers.auditor.auditor import Auditor
from agentos.handlers.auditor.parts import AuditorParts
from agentos.handlers.crash import never
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.signing import is_signed
from tests.domain.audit.keys import signer


class Crash(BaseException):
    """The process is gone."""


def crash_at(point: str, times: int = 1) -> Callable[[str], None]:
    """Return what ends the auditor when it comes to a point for the nth time."""
    left = [times]

    def come_to(name: str) -> None:
        if name == point:
            left[0] -= 1
            if left[0] == 0:
                raise Crash(point)

    return come_to


def auditor_on(log: EventLog, crash_point: Callable[[str], None] = never) -> Auditor:
    """Return an auditor that was not resumed yet."""
    return Auditor(AuditorParts(log, SystemClock(), SystemIds(), signer(), crash_point))


async def audit_all(log: EventLog, crash_point: Callable[[str], None] = never) -> Auditor:
    """Run an auditor until it has recorded all that is in the log, and sign it."""
    auditor = auditor_on(log, crash_point)
    await auditor.notary.publish_key()
    await auditor.resume()
    await _read_on(auditor, log)
    return auditor


async def _read_on(auditor: Auditor, log: EventLog) -> None:
    working = asyncio.create_task(auditor.run())
    reaching = asyncio.create_task(auditor.reach(await log.head()))
    done, _ = await asyncio.wait({working, reaching}, return_when=asyncio.FIRST_COMPLETED)
    for task in (working, reaching):
        task.cancel()
    await asyncio.gather(working, reaching, return_exceptions=True)
    if working in done:
        working.result()


async def sign(auditor: Auditor) -> None:
    """Let the auditor see its own records, and sign them."""
    log = auditor.notary._parts.log
    await _read_on(auditor, log)
    await auditor.notary.sign_due(asyncio.get_running_loop().time())


async def records_of(log: EventLog, tenant_id: str) -> list[dict[str, Any]]:
    """Return a tenant's audit records."""
    return await _payloads(log, chain_ref(tenant_id))


async def checkpoints_of(log: EventLog, tenant_id: str) -> list[dict[str, Any]]:
    """Return the checkpoints of a tenant's chain."""
    return await _payloads(log, checkpoints_ref(tenant_id))


async def _payloads(log: EventLog, ref: StreamRef) -> list[dict[str, Any]]:
    records = await log.read(ref)
    return [json.loads(line)["event"]["payload"] for r in records for line in r.lines()]


async def verdict(log: EventLog, tenant_id: str) -> ChainVerifier:
    """Verify a chain as the log has it, checkpoints in their places."""
    verifier = ChainVerifier(tenant_id, {signer().key_id: signer().public_key}, is_signed)
    both = [*await log.read(chain_ref(tenant_id)), *await log.read(checkpoints_ref(tenant_id))]
    for record in sorted(both, key=lambda r: r.position):
        for line in record.lines():
            if record.ref.aggregate_id == "chain":
                verifier.log_line(line)
            else:
                verifier.checkpoint(json.loads(line)["event"]["payload"])
    return verifier
