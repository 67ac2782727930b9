"""The one pipeline: every model call of this node, whichever door it came by."""

from typing import Any

from agentos.domain.ports import EmbedRequest, ModelRequest, OnDelta
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

    def __init__(self, gates: Gates, idempotency: Idempotency) -> None:
        self._gates = gates
        self._idempotency = idempotency

    async def chat(
        self,
        caller: Caller,
        request: ModelRequest,
        on_delta: OnDelta | None = None,
        on_begun: OnBegun | None = None,
    ) -> Completed:
        """Make one chat call; as `Pipeline.chat`."""
        if caller.fingerprint is None:
            return await GovernedChat(self._gates, caller, request).made(on_delta, on_begun)

        async def make() -> dict[str, Any]:
            governed = GovernedChat(self._gates, caller, request)
            return completed_record(await governed.made(on_delta, on_begun))

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
            return await GovernedEmbedding(self._gates, caller, request).made()

        async def make() -> dict[str, Any]:
            return embedded_record(await GovernedEmbedding(self._gates, caller, request).made())

        record, _ = await self._idempotency.once(caller, request.request_id, make)
        return embedded_of(record)
