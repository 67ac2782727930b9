"""One governed chat call."""

from dataclasses import replace
from typing import ClassVar

from agentos.domain.errors import InvalidRequestError, PolicyBlockedError
from agentos.domain.models.catalog import Operation
from agentos.domain.models.plan import Plan, Target
from agentos.domain.models.routing import Needs
from agentos.domain.models.worst_case import (
    BUILTIN,
    chat_texts,
    estimated_tokens,
    input_ceiling,
    output_ceiling,
    parts_of,
)
from agentos.domain.policy.names import is_fixed
from agentos.domain.ports import ModelAnswer, ModelRequest, OnDelta, RequestedToolCall, Usage
from agentos.domain.tenant.tenant import Tenant
from agentos.gateways.model_policy.calls import Begun, Caller, Completed, OnBegun
from agentos.gateways.model_policy.content import (
    call_fields,
    chat_fields,
    rewritten_calls,
    rewritten_chat,
    tool_output_fields,
)
from agentos.gateways.model_policy.governed import Gates, Governed, Look, least
from agentos.gateways.model_policy.output import FIELD, Output, ReservationReachedError
from agentos.gateways.model_policy.tool_calls import governed_call


class GovernedChat(Governed[ModelRequest]):
    """Used once, by `made`."""

    OPERATION: ClassVar[Operation] = "chat"

    def __init__(self, gates: Gates, caller: Caller, request: ModelRequest) -> None:
        super().__init__(gates, caller, request)
        self._asked = request.max_output_tokens
        self._texts = chat_texts(request)
        self._output: Output | None = None
        self._on_delta: OnDelta | None = None
        self._on_begun: OnBegun | None = None
        self.said: ModelAnswer | None = None
        """What the model answered, before policy looked at it."""

    async def made(
        self, on_delta: OnDelta | None = None, on_begun: OnBegun | None = None
    ) -> Completed:
        """Make the call; as `Pipeline.chat`."""
        self._on_delta, self._on_begun = on_delta, on_begun
        self.is_streamed = on_delta is not None
        try:
            try:
                return await self._answered()
            except ReservationReachedError:
                return await self._cut_short()
        except BaseException as error:
            self.failed(error, self._partial())
            raise

    async def _answered(self) -> Completed:
        plan = await self.admit()
        routed = await self.gates.router.chat(
            plan,
            self.caller.auth,
            self.request,
            None if self._on_delta is None else self._feed,
            trail=self.trail,
            prepare=self._prepared,
            shadowed=self._shadowed,
        )
        if self.policy.finder is not None:
            await self._look_for_names(routed.answer)
        return self._completed(routed.answer, fallback_used=routed.fallback_used)

    # Before

    def bound_output(self, tenant: Tenant) -> None:
        """Let the tenant's limit of output tokens hold; more is `InvalidRequestError`."""
        limits = tenant.limits.models
        most = limits.max_tokens_per_request if limits else None
        asked = self.request.max_output_tokens
        if most is not None and asked is not None and asked > most:
            raise _too_many(asked, most)
        if most is not None and asked is None:
            self.request = replace(self.request, max_output_tokens=most)

    def require_room(self, plan: Plan) -> None:
        """Raise `InvalidRequestError` for more output than the first model can give."""
        most, asked = plan.targets[0].entry.max_output_tokens, self._asked
        if most is not None and asked is not None and asked > most:
            raise _too_many(asked, most)

    def texts(self) -> list[str]:
        """Return the texts of the call that policy may look for names in."""
        return [text for field, text in chat_fields(self.request) if not is_fixed(field)]

    def needs(self) -> Needs:
        """Return what the call asks of a model."""
        request = self.request
        return Needs(request.requirements, self.input_tokens(), request.max_output_tokens)

    def worst_case(self, plan: Plan) -> dict[str, int]:
        """Return what the call may use at most, whichever target answers."""
        parts = parts_of(self.request)
        tokens = cost = 0
        for target in plan.targets:
            asked = input_ceiling(self._texts, parts, target.backend)
            answered = output_ceiling(self._most(target), asked, target)
            tokens = max(tokens, asked + answered)
            cost = max(cost, target.micro_usd(asked, answered))
        return {"requests": 1, "tokens": tokens, "micro_usd": cost}

    def _most(self, target: Target) -> int | None:
        return least(self.request.max_output_tokens, target.entry.max_output_tokens)

    def _prepared(self, target: Target) -> ModelRequest:
        """Return the request as it may go to a target. Raises `PolicyBlockedError`."""
        self.asked_anew(target)
        request = self._let_through(target, self.look)
        if self._on_delta is not None:
            facts = self.facts("output", target)
            limit = None if target.backend == BUILTIN else request.max_output_tokens
            self._output = Output(self.policy, facts, self._on_delta, limit)
        if self._on_begun is not None:
            self._on_begun(Begun(target.backend, target.model, self.decision()))
        return request

    def _shadowed(self, target: Target) -> ModelRequest | None:
        """Return the request as a shadow model may have it, `None` where policy says no."""
        try:
            return self._let_through(target, self.look_aside)
        except PolicyBlockedError:
            return None

    def _let_through(self, target: Target, look: Look) -> ModelRequest:
        request = self.request
        verdict = look("input", chat_fields(request), target)
        if verdict.redactions:
            request = rewritten_chat(request, verdict.apply)
        if any(message.role == "tool" for message in request.messages):
            verdict = look("tool_output", tool_output_fields(request), target)
            if verdict.redactions:
                request = rewritten_chat(request, verdict.apply)
        # A real model is told how much was reserved for it, and never asked for more than it can
        # give; the builtin ones answer their input.
        if target.backend != BUILTIN:
            is_held = self.reservation is not None and bool(self.reservation.reserved)
            most = self._most(target)
            if is_held:
                most = output_ceiling(most, 0, target)
            elif request.max_output_tokens is None:
                most = None
            if most != request.max_output_tokens:
                request = replace(request, max_output_tokens=most)
        return request

    # While and after

    async def _look_for_names(self, answer: ModelAnswer) -> None:
        """Have the names in an answer ready: a model's look must not keep up everybody else."""
        self.answered = answer.usage  # charged, whatever comes of it
        said = [text for field, text in call_fields(answer.tool_calls) if not is_fixed(field)]
        if self.policy.finder is not None:
            await self.policy.finder.prepare([answer.content, *said])

    def _feed(self, text: str) -> None:
        if self._output is not None:
            self._output.feed(text)
            if self._output.is_blocked:
                self.verdicts["output"] = [self._output.verdict]
                self.block(self._output.verdict)

    def _completed(self, answer: ModelAnswer, *, fallback_used: bool) -> Completed:
        target = self.target
        if target is None:
            raise RuntimeError("nobody answered")
        self.answered = answer.usage  # charged, whatever policy says of the answer
        self.said = answer
        content = self._checked_content(answer.content, target)
        calls = tuple(self._checked_call(call, target) for call in answer.tool_calls)
        outcome = self.outcome(answer.usage, target, fallback_used=fallback_used)
        # What a backend says of itself is not taken over: the catalog's names are the contract's.
        seen = ModelAnswer(
            content,
            calls,
            answer.usage,
            target.backend,
            target.model,
            outcome.cost_usd,
            fallback_used,
            answer.finish_reason,
            answer.gates,
            answer.node,
        )
        return Completed(seen, outcome)

    def _checked_content(self, content: str, target: Target) -> str:
        if self._output is not None:
            content = self._output.finish()
            verdict = self._output.verdict
            self.verdicts.setdefault("output", []).append(verdict)
            if verdict.is_blocked:
                self.block(verdict)
            return content
        verdict = self.look("output", [(FIELD, content)], target)
        return verdict.apply(FIELD, content) if verdict.redactions else content

    def _checked_call(self, call: RequestedToolCall, target: Target) -> RequestedToolCall:
        """Return a tool call as it may be made.

        The runtime is told which calls it may not make, or not yet; to anybody else policy says
        so in the only way there is: `PolicyBlockedError`.
        """
        if self.caller.run_id is not None:
            facts = self.facts("tool_input", target, call.tool_id)
            call, verdict = governed_call(self.policy, call, facts)
            self.verdicts.setdefault("tool_input", []).append(verdict)
            return call
        verdict = self.look("tool_input", call_fields([call]), target, call.tool_id)
        if verdict.redactions:
            (call,) = rewritten_calls([call], verdict.apply)
        return call

    async def _cut_short(self) -> Completed:
        """Return what came until the reservation was reached: the backend did not keep to it."""
        target, output = self.target, self._output
        if target is None or output is None:
            raise RuntimeError("only a stream can be cut short")
        usage = self._partial() or Usage(0, 0)
        answer = ModelAnswer(
            output.text(), (), usage, target.backend, target.model, finish_reason="length"
        )
        await self._look_for_names(replace(answer, content=output.held))
        completed = self._completed(answer, fallback_used=target is not self._first())
        reasons = (*completed.outcome.reasons, "stopped:reservation_reached")
        return Completed(completed.answer, replace(completed.outcome, reasons=reasons))

    def _first(self) -> Target | None:
        return None if self.plan is None else self.plan.targets[0]

    def _partial(self) -> Usage | None:
        """Return what a stream that broke off has used as far as anybody can tell."""
        output = self._output
        if output is None or not output.characters:
            return None
        return Usage(self.input_tokens(), -(-output.characters // 4))

    def input_tokens(self) -> int:
        """Return how many tokens the input has, by the contract's rule."""
        return estimated_tokens(self._texts)


def _too_many(asked: int, most: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"at most {most} output tokens may be asked for",
        errors=[{"loc": ["body", "max_output_tokens"], "msg": f"{asked} is over {most}"}],
        limit=most,
    )
