"""One governed embedding call."""

from typing import ClassVar

from agentos.domain.errors import PolicyBlockedError
from agentos.domain.models.catalog import Operation
from agentos.domain.models.plan import Plan, Target
from agentos.domain.models.routing import Needs
from agentos.domain.models.worst_case import estimated_tokens, input_ceiling
from agentos.domain.ports import EmbedRequest
from agentos.gateways.model_policy.calls import Embedded
from agentos.gateways.model_policy.content import embed_fields, rewritten_embed
from agentos.gateways.model_policy.governed import Governed, Look


class GovernedEmbedding(Governed[EmbedRequest]):
    """Used once, by `made`. Vectors hold nothing that policy could read: input only."""

    OPERATION: ClassVar[Operation] = "embed"

    async def made(self) -> Embedded:
        """Make the call; as `Pipeline.embed`."""
        try:
            plan = await self.admit()
            routed = await self.gates.router.embed(
                plan,
                self.caller.auth,
                self.request,
                trail=self.trail,
                prepare=self._prepared,
                shadowed=self._shadowed,
            )
            target = self.target or routed.target
            outcome = self.outcome(routed.answer.usage, target, fallback_used=routed.fallback_used)
        except BaseException as error:
            self.failed(error, None)
            raise
        return Embedded(routed.answer, outcome)

    def texts(self) -> list[str]:
        """Return the texts of the call that policy may look for names in."""
        return list(self.request.texts)

    def needs(self) -> Needs:
        """Return what the call asks of a model."""
        return Needs(self.request.requirements, self.input_tokens(), 0)

    def worst_case(self, plan: Plan) -> dict[str, int]:
        """Return what the call may use at most, whichever target answers."""
        texts = self.request.texts
        tokens = cost = 0
        for target in plan.targets:
            asked = input_ceiling(texts, len(texts), target.backend)
            tokens, cost = max(tokens, asked), max(cost, target.micro_usd(asked, 0))
        return {"requests": 1, "tokens": tokens, "micro_usd": cost}

    def _prepared(self, target: Target) -> EmbedRequest:
        """Return the request as it may go to a target. Raises `PolicyBlockedError`."""
        self.asked_anew(target)
        return self._let_through(target, self.look)

    def _shadowed(self, target: Target) -> EmbedRequest | None:
        """Return the request as a shadow model may have it, `None` where policy says no."""
        try:
            return self._let_through(target, self.look_aside)
        except PolicyBlockedError:
            return None

    def _let_through(self, target: Target, look: Look) -> EmbedRequest:
        verdict = look("input", embed_fields(self.request), target)
        return rewritten_embed(self.request, verdict.apply) if verdict.redactions else self.request

    def input_tokens(self) -> int:
        """Return how many tokens the texts have, by the contract's rule."""
        return estimated_tokens(self.request.texts)
