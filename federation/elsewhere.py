"""Runs that peers execute for this node's tenants, as the orchestrator's routes ask for them."""

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp

from agentos.domain.errors import NotFoundError
from agentos.domain.federation.remote import remote_ref
from agentos.federation.approvals import approvals_elsewhere, decide_elsewhere
from agentos.federation.door import Federation
from agentos.federation.runs import cancel_elsewhere, events_elsewhere, find_remote
from agentos.gateways.http.call import call_of
from agentos.gateways.http.routing import gate_of

SETTLE_S: Final = 5.0
LOOK_S: Final = 0.1


class RunsElsewhere:
    """Answers for forwarded runs at the orchestrator's door, as the federation door does."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    async def settled(self, tenant_id: str, run_id: str) -> None:
        """Return once the log has the run, if a caller was told of it just now."""
        await self._federation.forwarder.calls.settled(remote_ref(tenant_id, run_id), SETTLE_S)

    async def events(self, request: Request) -> ASGIApp:
        """Return the stream of a run's events: live from its peer, else from the copy."""
        remote = await find_remote(self._federation, call_of(request.scope).caller, request)
        if remote is None:
            raise NotFoundError("no such run")
        return events_elsewhere(self._federation, remote, request)

    async def cancel(self, request: Request) -> ASGIApp:
        """Stop a run where it is executed."""
        remote = await find_remote(self._federation, call_of(request.scope).caller, request)
        if remote is None:
            raise NotFoundError("no such run")
        return await cancel_elsewhere(self._federation, remote, request)

    async def decide(self, request: Request) -> ASGIApp:
        """Decide on a tool call where its run is executed; recorded here too."""
        call = call_of(request.scope)
        remote = await find_remote(self._federation, call.caller, request)
        if remote is None:
            raise NotFoundError("no such run")
        answer = await decide_elsewhere(self._federation, remote, request)
        gate_of(request.scope).allowed(request.scope, call, "federation.runs.approve")
        return answer

    async def approvals(self, request: Request) -> ASGIApp:
        """Return what a run over there has asked people for."""
        remote = await find_remote(self._federation, call_of(request.scope).caller, request)
        if remote is None:
            raise NotFoundError("no such run")
        return await approvals_elsewhere(self._federation, remote, request)

    async def ended(self, tenant_id: str, run_id: str, until: float) -> None:
        """Return once the copy has the run's end, or the loop's time is `until`."""
        ref, loop = remote_ref(tenant_id, run_id), asyncio.get_running_loop()
        while (left := until - loop.time()) > 0:
            copying = self._federation.backhaul.task(ref)
            if copying is not None:
                await asyncio.wait([copying], timeout=left)
            elif await self._federation.backhaul.has_ended(ref):
                return
            else:  # it is taken up within moments
                await asyncio.sleep(min(left, LOOK_S))
