"""What a gateway counted is delivered once when it stops in the middle of a delivery."""

import asyncio
from collections.abc import Mapping
from typing import Any

from agentos.domain.auth import AuthContext
from agentos.gateways.http.denials import Denials
from agentos.infra.memory.bus import MemoryBus


async def test_a_delivery_in_hand_is_seen_through_and_the_rest_follows() -> None:
    delivered: list[int] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def take(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
        begun.set()
        await go_on.wait()
        delivered.append(sum(denial["count"] for denial in command["denials"]))
        return {}

    denials = Denials(MemoryBus({"audit.denials": take}), every_s=0.001)
    denials.note("GET /v1/runs", "no_credential", "::1", None)
    running = asyncio.create_task(denials.run())
    async with asyncio.timeout(30):
        await begun.wait()
        denials.note("GET /v1/runs", "no_credential", "::1", None)
        denials.note("GET /v1/runs", "no_credential", "::1", None)
        running.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(running, return_exceptions=True)
    assert delivered == [1, 2]
