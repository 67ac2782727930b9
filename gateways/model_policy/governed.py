"""One governed call: admitted, made, looked at, charged and recorded, whatever becomes of it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar, Final, Generic, NoReturn, TypeVar

from agentos.domain.errors import AgentOSError, PolicyBlockedError
from agentos.domain.models.catalog import Operation
from agentos.domain.models.entitled import Entitled, entitled
from agentos.domain.models.plan import Plan, Target, Who
from agentos.domain.models.routing import Needs
from agentos.domain.policy.compiled import CompiledPolicy
from agentos.domain.policy.facts import Direction, Facts
from agentos.domain.policy.verdict import Verdict
from agentos.domain.ports import Clock, EmbedRequest, ModelRequest, Usage
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.gateways.http.followed import Followed
from agentos.gateways.model_policy.attempts import Attempt
from agentos.gateways.model_policy.budgets import Budgets
from agentos.gateways.model_policy.calls import Caller, Decision, Outcome
from agentos.gateways.model_policy.leases import Reservation
from agentos.gateways.model_policy.metering import Meter
from agentos.gateways.model_policy.policies import Policies
from agentos.gateways.model_policy.recording import (
    Status,
    decision_of,
    reasons_of,
    usage_fields,
)
from agentos.gateways.model_policy.router import Router

R = TypeVar("R", ModelRequest, EmbedRequest)
Look = Callable[[Direction, Sequence[tuple[str, str]], Target], Verdict]
KEPT: Final = 20_000


class Entitlements:
    """What each tenant may use, worked out once for as long as its profile holds."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, Entitled]] = {}

    def of(self, tenant: Tenant) -> Entitled:
        """Return what the tenant may use."""
        known = self._known.get(tenant.ref.tenant_id)
        if known is None or known[0] != tenant.position:
            if len(self._known) >= KEPT:
                self._known.clear()
            known = self._known[tenant.ref.tenant_id] = (tenant.position, entitled(tenant.profile))
        return known[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What a call passes: entitlement, budgets, policy, routing, metering."""

    known: Followed
    router: Router
    budgets: Budgets
    policies: Policies
    meter: Meter
    clock: Clock
    node: str
    entitlements: Entitlements


class Governed(ABC, Generic[R]):
    """What chat and embedding calls have in common. Used once."""

    OPERATION: ClassVar[Operation]

    def __init__(self, gates: Gates, caller: Caller, request: R) -> None:
        self.gates = gates
        self.caller = caller
        self.request: R = request
        self.began = perf_counter()
        self.trail: list[Attempt] = []
        self.verdicts: dict[Direction, list[Verdict]] = {}
        self.plan: Plan | None = None
        self.target: Target | None = None
        self.reservation: Reservation | None = None
        self.worst: Mapping[str, int] = {}
        self.policy: CompiledPolicy
        self.is_streamed = False
        self.answered: Usage | None = None

    # The gates before the call

    async def admit(self) -> Plan:
        """Return the way to go, the worst case held. Raises what refuses the call."""
        gates, caller, request = self.gates, self.caller, self.request
        ref = tenant_ref(caller.auth.tenant_id)
        tenant = gates.known.peek(Tenant, ref) or await gates.known.get(Tenant, ref)
        if not tenant.position:  # never refused from what may be stale
            tenant = await gates.known.reload(Tenant, ref)
            tenant.require_known()
        self.bound_output(tenant)
        who = Who(
            caller.auth.tenant_id,
            caller.auth.principal.principal_id,
            caller.agent_id,
            caller.run_id,
        )
        plan = self.plan = await gates.router.plan(
            request.model_ref,
            self.OPERATION,
            who,
            gates.entitlements.of(tenant).allows,
            needs=self.needs(),
        )
        self.require_room(plan)
        self.worst = self.worst_case(plan)
        self.reservation = await gates.budgets.reserve(tenant, self.worst)
        self.policy = await gates.policies.of(tenant)
        if self.policy.finder is not None:
            await self.policy.finder.prepare(self.texts())
        return plan

    def bound_output(self, tenant: Tenant) -> None:
        """Let the tenant's limit of output tokens hold."""

    def require_room(self, plan: Plan) -> None:
        """Raise `InvalidRequestError` for more output than the model can give."""

    @abstractmethod
    def texts(self) -> list[str]:
        """Return the texts of the call that policy may look for names in."""

    @abstractmethod
    def needs(self) -> Needs:
        """Return what the call asks of a model."""

    @abstractmethod
    def worst_case(self, plan: Plan) -> dict[str, int]:
        """Return what the call may use at most, whichever target answers."""

    def facts(self, direction: Direction, target: Target, tool: str | None = None) -> Facts:
        """Return the call as policy sees it."""
        caller = self.caller
        context = caller.auth.policy_context
        return Facts(  # by place: it is made for every look
            direction,
            target.model_id,
            target.tier or _tier_of(self.request.model_ref),
            target.backend,
            tool,
            context.data_classification,
            context.region,
            context.purpose,
            self.gates.clock.now_ms(),
            caller.agent_id,
            caller.auth.principal.principal_id,
            caller.labels,
        )

    def look(
        self,
        direction: Direction,
        fields: Sequence[tuple[str, str]],
        target: Target,
        tool: str | None = None,
    ) -> Verdict:
        """Return policy's verdict on a content, and note it. Raises `PolicyBlockedError`."""
        verdict = self.policy.check(fields, self.facts(direction, target, tool))
        self.verdicts.setdefault(direction, []).append(verdict)
        if verdict.is_blocked:
            self.block(verdict)
        return verdict

    def look_aside(
        self, direction: Direction, fields: Sequence[tuple[str, str]], target: Target
    ) -> Verdict:
        """Return policy's verdict on a content that is no part of the call; as `look`."""
        verdict = self.policy.check(fields, self.facts(direction, target))
        if verdict.is_blocked:
            self.block(verdict)
        return verdict

    def block(self, verdict: Verdict) -> NoReturn:
        """Raise the contract's error for what policy does not let pass."""
        raise PolicyBlockedError(
            "policy does not allow this content",
            reasons=list(verdict.reasons),
            policy_outcome=verdict.outcome(),
            request_id=self.request.request_id,
        )

    def asked_anew(self, target: Target) -> None:
        """Forget what policy said for another target, and note whom the call goes to."""
        self.target = target
        self.verdicts.clear()

    # What it came to

    def outcome(self, usage: Usage, target: Target, *, fallback_used: bool) -> Outcome:
        """Return what the gates said, and charge what was used."""
        verdicts = self.all_verdicts()
        return Outcome(
            request_id=self.request.request_id,
            decision=decision_of(verdicts),
            reasons=reasons_of(verdicts),
            redactions=tuple([r.view() for v in verdicts for r in v.redactions]),
            backend=target.backend,
            model=target.model,
            node=self.gates.node,
            fallback_used=fallback_used,
            latency_ms=self.latency_ms(),
            cost_usd=self._charged(usage, target) / 1_000_000,
        )

    def _charged(self, usage: Usage, target: Target) -> int:
        cost = self.charge(usage, target)
        self.record("ok", usage, cost)
        if len(self.trail) == 1:
            beside = perf_counter() - self.began - self.trail[0].seconds
            self.gates.meter.note_overhead(beside)
        return cost

    def all_verdicts(self) -> list[Verdict]:
        """Return what policy said, in the order of its looks."""
        return [verdict for some in self.verdicts.values() for verdict in some]

    def decision(self) -> Decision:
        """Return the decision that all verdicts come to."""
        return decision_of(self.all_verdicts())

    def latency_ms(self) -> int:
        """Return how long the call has taken, gates included."""
        return math.ceil((perf_counter() - self.began) * 1000)

    def charge(self, usage: Usage, target: Target | None) -> int:
        """Settle the reservation at what was used; returns the cost in micro-dollars."""
        cost = target.micro_usd(usage.input_tokens, usage.output_tokens) if target else 0
        if self.reservation is not None:
            self.reservation.settle(
                {"requests": 1, "tokens": usage.total_tokens, "micro_usd": cost}
            )
        return cost

    def failed(self, error: BaseException, partial: Usage | None) -> None:
        """Charge and record a call without an answer.

        One that never reached a model uses nothing. One that broke off has used what the model
        said, else what is known of it; one that was given up in flight and told nothing counts
        at its worst case: nobody knows.
        """
        if self.reservation is None:
            if isinstance(error, AgentOSError):
                self.record("refused", Usage(0, 0), 0, error)
            return
        usage = self._used(error, partial)
        if usage is None:
            self.reservation.release()
            usage = Usage(0, 0)
        cost = self.charge(usage, self.target)
        self.record(_status(error), usage, cost, error)

    def record(
        self, status: Status, usage: Usage, cost: int, error: BaseException | None = None
    ) -> None:
        """Have the call written down, beside its answer."""
        if isinstance(error, AgentOSError):
            error.is_recorded = True
        auth = self.caller.auth
        recorded = usage_fields(self, status, usage, cost, error)
        self.gates.meter.record(auth.tenant_id, auth.principal, self.caller.traceparent, recorded)

    def _used(self, error: BaseException, partial: Usage | None) -> Usage | None:
        """Return what a failed call has used, `None` when it never began."""
        if self.answered is not None:
            return self.answered
        told = next((a.usage for a in reversed(self.trail) if a.usage is not None), None)
        if told is not None or partial is not None:
            return told or partial
        if isinstance(error, PolicyBlockedError):
            return Usage(0, 0)
        if not self.trail:
            return None
        last = self.trail[-1]
        if not last.is_sent:
            return None
        if last.outcome == "canceled" or last.code == "timeout":
            spent = self.input_tokens()
            return Usage(spent, max(0, self.worst.get("tokens", 0) - spent))
        is_told = isinstance(error, AgentOSError) and "stage" in error.details
        return Usage(0, 0) if is_told else None

    @abstractmethod
    def input_tokens(self) -> int:
        """Return how many tokens the input has, by the contract's rule."""


def _status(error: BaseException) -> Status:
    if isinstance(error, PolicyBlockedError):
        return "blocked"
    return "error" if isinstance(error, AgentOSError) else "interrupted"


def _tier_of(model_ref: str) -> str | None:
    return model_ref.removeprefix("tier:") if model_ref.startswith("tier:") else None


def least(*limits: int | None) -> int | None:
    """Return the smallest of the limits that there are."""
    found = [limit for limit in limits if limit is not None]
    return min(found) if found else None
