"""The one pipeline: every model call of this node, whichever door it came by."""

from typing import Any

from agentos.domain.ports import EmbedRequest, ModelRequest, OnDelta
from agentos.gateways.model_policy.bodies import Bodies
from agentos.gateways.model_policy.calls import Begun, Caller, Completed, Embedded, OnBegun
from agentos.gateways.model_policy.governed import Gates
from agentos.gateways.model_policy.governed_chat import GovernedChat
from agentos.gateways.model_policy.governed_embedding import GovernedEmbedding
from agentos.gateways.model_policy.idempotency import Idempotency
from agentos.gateways.model_policy.records import (
    completed_of,
    completed_record,
    embedded_of,
    embedded_record,
)


class GovernedPipeline:
    """Identity, tenant and scope were settled at the door; the other gates are here."""

    def __init__(
        self, gates: Gates, idempotency: Idempotency, bodies: Bodies | None = None
    ) -> None:
        self._gates = gates
        self._idempotency = idempotency
        self._bodies = bodies

    async def chat(
        self,
        caller: Caller,
        request: ModelRequest,
        on_delta: OnDelta | None = None,
        on_begun: OnBegun | None = None,
    ) -> Completed:
        """Make one chat call; as `Pipeline.chat`."""
        if caller.fingerprint is None:
            return await self._chat(caller, request, on_delta, on_begun)

        async def make() -> dict[str, Any]:
            return completed_record(await self._chat(caller, request, on_delta, on_begun))

        record, is_repeat = await self._idempotency.once(caller, request.request_id, make)
        completed = completed_of(record)
        if is_repeat and on_begun is not None:
            outcome = completed.outcome
            on_begun(Begun(outcome.backend, outcome.model, outcome.decision))
        if is_repeat and on_delta is not None and completed.answer.content:
            on_delta(completed.answer.content)
        return completed

    async def embed(self, caller: Caller, request: EmbedRequest) -> Embedded:
        """Make one embedding call; as `Pipeline.embed`."""
        if caller.fingerprint is None:
            return await self._embed(caller, request)

        async def make() -> dict[str, Any]:
            return embedded_record(await self._embed(caller, request))

        record, _ = await self._idempotency.once(caller, request.request_id, make)
        return embedded_of(record)

    async def _chat(
        self,
        caller: Caller,
        request: ModelRequest,
        on_delta: OnDelta | None,
        on_begun: OnBegun | None,
    ) -> Completed:
        governed = GovernedChat(self._gates, caller, request)
        try:
            return await governed.made(on_delta, on_begun)
        finally:
            if self._bodies is not None and governed.target is not None:
                self._bodies.note(caller, request, governed.said)

    async def _embed(self, caller: Caller, request: EmbedRequest) -> Embedded:
        governed = GovernedEmbedding(self._gates, caller, request)
        try:
            return await governed.made()
        finally:
            if self._bodies is not None and governed.target is not None:
                self._bodies.note(caller, request, None)
