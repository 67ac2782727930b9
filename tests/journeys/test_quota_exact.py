"""Sixty clients, a limit of seven, three handler processes, and one of them dies on the way."""

import asyncio
from typing import Any

import pytest

from agentos.domain.admission.admission import Admission, admission_ref
from agentos.domain.aggregate import Moment, read_events
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE, Origin
from agentos.domain.log import make_commit
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from tests.journeys.mini_node import MiniNode

LIMIT = 7
CLIENTS = 60


async def limit_runs(log: JetStreamLog, limit: int) -> None:
    """Give the demo tenant a limit of concurrent runs."""
    new_id = SystemIds()
    tenant = Tenant(tenant_ref("tnt_demo"))
    tenant.fold(await log.read(tenant.ref))
    quotas = {"runs": {"max_concurrent_runs": limit}}
    profile = Profile.model_validate({"name": "Demo", "plan_tier": "demo", "quotas": quotas})
    at = Moment(SystemClock().now_ms(), new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))
    commit = make_commit(tenant.ref, tenant.update(profile, at), new_id)
    await log.append(commit, expected=tenant.position)


async def most_active(log: JetStreamLog) -> int:
    """Return the most slots that were ever held, over the whole history."""
    admission, most = Admission(admission_ref("tnt_demo")), 0
    for record in await log.read(admission.ref):
        for event in read_events(record, Admission.PAYLOADS):
            admission.evolve(event)
            most = max(most, len(admission.active))
    return most


async def ask_until_decided(node: MiniNode, number: int) -> tuple[int, dict[str, Any]]:
    """Start a run; what is unclear is asked again with the same key."""
    return await node.post_run_until_accepted("hello", idempotency_key=f"client-{number}")


@pytest.mark.parametrize("victim", ["handlers", "handlers2"])
async def test_seven_are_accepted_whoever_dies(victim: str) -> None:
    node = MiniNode()
    await node.open("gateway", "handlers", "handlers2", "handlers3", "projector")
    try:
        await node.gateway_up()
        client = await connect(node.nats.url, "test")
        log = JetStreamLog(client)
        await limit_runs(log, LIMIT)
        asked = [asyncio.create_task(ask_until_decided(node, n)) for n in range(CLIENTS)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        node.kill(victim)
        answers = await asyncio.gather(*asked)
        accepted = {body["run"]["run_id"] for status, body in answers if status in (200, 201)}
        refused = [body["error"] for status, body in answers if status == 429]
        assert len(accepted) == LIMIT
        assert len(refused) == CLIENTS - LIMIT
        assert {error["code"] for error in refused} == {"quota_exceeded"}
        assert {error["details"]["limit"] for error in refused} == {LIMIT}
        assert await most_active(log) == LIMIT
        await bounded_close(client)
    finally:
        await node.close()
