"""Copies of calls for models that are being tried out: counted, and otherwise without effect."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agentos.domain.auth import AuthContext
from agentos.domain.errors import AgentOSError
from agentos.domain.models.plan import Plan, Target
from agentos.domain.models.routing import share
from agentos.domain.ports import EmbedRequest, ModelBackend, ModelRequest, Usage
from agentos.gateways.model_policy.backends import Backends
from agentos.gateways.model_policy.model_metrics import ModelMetrics

AT_ONCE: Final = 32
TIMEOUT_MS: Final = 120_000
DROPPED: Final = "dropped"
BLOCKED: Final = "policy_blocked"


class Shadows:
    """Shadow calls in the background, at most `AT_ONCE`; one too many is dropped and counted."""

    def __init__(self, backends: Backends, metrics: ModelMetrics) -> None:
        self._backends, self._metrics = backends, metrics
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def copy(
        self,
        plan: Plan,
        auth: AuthContext,
        request_id: str,
        made_for: Callable[[Target], ModelRequest | EmbedRequest | None],
    ) -> None:
        """Send copies to the plan's shadow models, as many calls as their percent says.

        `made_for` gives the request as a shadow model may have it, or `None`: then none is sent.
        """
        for shadow in plan.shadow:
            model_id = shadow.target.model_id
            if share(f"shadow\0{model_id}\0{auth.tenant_id}\0{request_id}") * 100 >= (
                shadow.percent
            ):
                continue
            if len(self._running) >= AT_ONCE:
                self._metrics.shadow(shadow.target, DROPPED)
                continue
            if (request := made_for(shadow.target)) is None:
                self._metrics.shadow(shadow.target, BLOCKED)
                continue
            task = asyncio.create_task(self._call(shadow.target, auth, request))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def aclose(self) -> None:
        """End what is under way."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _call(
        self, target: Target, auth: AuthContext, request: ModelRequest | EmbedRequest
    ) -> None:
        began = time.monotonic()
        try:
            usage = await self._usage(target, auth, request)
        except AgentOSError as error:
            self._metrics.shadow(target, error.code, time.monotonic() - began)
        except Exception as error:  # noqa: BLE001 - the outermost of its task: counted, never raised
            self._metrics.shadow(target, type(error).__name__, time.monotonic() - began)
        else:
            self._metrics.shadow(target, "ok", time.monotonic() - began, usage)

    async def _usage(
        self, target: Target, auth: AuthContext, request: ModelRequest | EmbedRequest
    ) -> Usage:
        slot = self._backends.hold(target.server)
        try:
            async with asyncio.timeout(TIMEOUT_MS / 1000):
                await slot.enter(TIMEOUT_MS)
                try:
                    return await _asked(slot.backend, auth, target.model, request)
                finally:
                    slot.leave()
        finally:
            self._backends.release(slot)


async def _asked(
    backend: ModelBackend, auth: AuthContext, model: str, request: ModelRequest | EmbedRequest
) -> Usage:
    """Ask under another request id: the real call's would make a server give that call's answer."""
    request_id = f"{request.request_id}-shadow"
    if isinstance(request, ModelRequest):
        chat = replace(request, request_id=request_id, timeout_ms=TIMEOUT_MS)
        return (await backend.chat(auth, model, chat)).usage
    embed = replace(request, request_id=request_id, timeout_ms=TIMEOUT_MS)
    return (await backend.embed(auth, model, embed)).usage
