"""Routing in the gateway: plans from the catalog in memory, and calls along them."""

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry

from agentos.domain.auth import AuthContext
from agentos.domain.errors import ForbiddenError, InvalidRequestError
from agentos.domain.models.breaker import Breaker
from agentos.domain.models.catalog import BreakerRule, Operation
from agentos.domain.models.plan import Plan, Target, Who
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate
from agentos.domain.models.routing import NO_NEEDS, IsAllowed, Needs, RoutingTable
from agentos.domain.ports import (
    EmbedAnswer,
    EmbedRequest,
    ModelAnswer,
    ModelBackend,
    ModelRequest,
    OnDelta,
)
from agentos.domain.values import value
from agentos.gateways.http.followed import Followed
from agentos.gateways.model_policy.attempts import OK, Attempt, Journey
from agentos.gateways.model_policy.backend_health import Health
from agentos.gateways.model_policy.backends import Backends, MakeBackend
from agentos.gateways.model_policy.model_metrics import ModelMetrics
from agentos.gateways.model_policy.shadow import Shadows

A = TypeVar("A")
ESTIMATE_TTL_MS: Final = 60_000
NEWEST: Final = 0.2


def monotonic_ms() -> int:
    """Return milliseconds of the clock that does not run backwards."""
    return time.monotonic_ns() // 1_000_000


@value
class Routed(Generic[A]):
    """An answer, the target that gave it, and all attempts that were made for it."""

    answer: A
    target: Target
    fallback_used: bool
    attempts: tuple[Attempt, ...]


class Router:
    """Plans calls by the catalog that `known` follows, and makes them.

    `run()` has to run beside it: it probes the backends. Close it with `aclose()`.
    """

    def __init__(
        self,
        known: Followed,
        make_backend: MakeBackend,
        registry: CollectorRegistry,
        *,
        now_ms: Callable[[], int] = monotonic_ms,
        chance: random.Random | None = None,
    ) -> None:
        self._known = known
        self._metrics = ModelMetrics(registry)
        self.backends = Backends(make_backend)
        self.chance = chance or random.Random()  # noqa: S311 - spreads load, guards nothing
        self.now_ms = now_ms
        self._shadows = Shadows(self.backends, self._metrics)
        self._table: RoutingTable | None = None
        self._breakers: dict[str, Breaker] = {}
        self._rules: dict[str, BreakerRule] = {}
        self._latency: dict[str, tuple[float, int]] = {}
        self._health = Health(self.table, self.backends, self._breakers_of, self._metrics, now_ms)

    async def plan(
        self,
        model_ref: str,
        operation: Operation,
        who: Who,
        is_allowed: IsAllowed,
        *,
        needs: Needs = NO_NEEDS,
    ) -> Plan:
        """Return the targets for a call; as `RoutingTable.plan`, by the catalog as it is now.

        A name that is not known, or not allowed, is looked for in the log before it is refused.
        """
        table = await self.table()
        try:
            return table.plan(
                model_ref, operation, who, is_allowed, needs=needs, latency_of=self.latency_of
            )
        except (InvalidRequestError, ForbiddenError):
            newer = self._made_ready(await self._known.reload(CatalogAggregate, CATALOG_REF))
            if newer is table:
                raise
            return newer.plan(
                model_ref, operation, who, is_allowed, needs=needs, latency_of=self.latency_of
            )

    async def table(self) -> RoutingTable:
        """Return the catalog as it is now, ready for looking things up."""
        known = self._known.peek(CatalogAggregate, CATALOG_REF)
        if known is None:
            known = await self._known.get(CatalogAggregate, CATALOG_REF)
        return self._made_ready(known)

    async def chat(
        self,
        plan: Plan,
        auth: AuthContext,
        request: ModelRequest,
        on_delta: OnDelta | None = None,
        *,
        trail: list[Attempt] | None = None,
        prepare: Callable[[Target], ModelRequest] | None = None,
        shadowed: Callable[[Target], ModelRequest | None] | None = None,
    ) -> Routed[ModelAnswer]:
        """Make a chat call along `plan`: retries, then the next target, until one answers.

        Nothing is tried again once a delta was handed out. `trail` (the caller's list) gets
        every attempt as it ends, also when the call fails or is cancelled. `prepare` gives the
        request as it may go to a target; what it raises stands for that target's answer.
        `shadowed` gives it as it may go to a shadow model, `None` if it may not; without, a
        shadow gets what was sent last. Raises what the last target raised.
        """
        attempts: list[Attempt] = [] if trail is None else trail
        told = None if on_delta is None else _Told(on_delta)

        def ask(backend: ModelBackend, model: str, request: ModelRequest) -> Awaitable[ModelAnswer]:
            return backend.chat(auth, model, request, told)

        has_begun = _never if told is None else told.has_begun
        journey = Journey(
            self, plan, request, ask, has_begun=has_begun, trail=attempts, prepare=prepare
        )
        reached = await journey.run()
        if plan.shadow:
            made_for = shadowed or (lambda _: journey.sent)
            self._shadows.copy(plan, auth, request.request_id, made_for)
        answer, target = reached.answer, reached.target
        if answer.backend != target.backend or answer.fallback_used != reached.fallback_used:
            answer = replace(answer, backend=target.backend, fallback_used=reached.fallback_used)
        return Routed(answer, target, reached.fallback_used, tuple(attempts))

    async def embed(
        self,
        plan: Plan,
        auth: AuthContext,
        request: EmbedRequest,
        *,
        trail: list[Attempt] | None = None,
        prepare: Callable[[Target], EmbedRequest] | None = None,
        shadowed: Callable[[Target], EmbedRequest | None] | None = None,
    ) -> Routed[EmbedAnswer]:
        """Make an embedding call along `plan`; as `chat`."""
        attempts: list[Attempt] = [] if trail is None else trail

        def ask(backend: ModelBackend, model: str, request: EmbedRequest) -> Awaitable[EmbedAnswer]:
            return backend.embed(auth, model, request)

        journey = Journey(
            self, plan, request, ask, has_begun=_never, trail=attempts, prepare=prepare
        )
        reached = await journey.run()
        if plan.shadow:
            made_for = shadowed or (lambda _: journey.sent)
            self._shadows.copy(plan, auth, request.request_id, made_for)
        answer, target = reached.answer, reached.target
        if answer.backend != target.backend:
            answer = replace(answer, backend=target.backend)
        return Routed(answer, target, reached.fallback_used, tuple(attempts))

    def latency_of(self, model_id: str) -> int | None:
        """Return what a model's answers took of late (ms); `None` if nothing is known by now.

        What was learned is forgotten after a minute, so that a slow model is tried again.
        """
        known = self._latency.get(model_id)
        if known is None or self.now_ms() - known[1] > ESTIMATE_TTL_MS:
            return None
        return round(known[0])

    def breaker(self, target: Target) -> Breaker:
        """Return the breaker of a model; models without an entry share their backend's."""
        name = self._guarded(target)
        found = self._breakers.get(name)
        rule = target.server.breaker
        if found is None or (self._rules[name] is not rule and self._rules[name] != rule):
            found = self._breakers[name] = Breaker(rule)
        self._rules[name] = rule
        return found

    def ended(self, target: Target, outcome: str, ms: int) -> None:
        """Take in how an attempt ended: `ok` or an error's code."""
        self._metrics.attempt(target, outcome)
        if outcome != OK:
            return
        name, now = self._guarded(target), self.now_ms()
        known = self._latency.get(name)
        if known is None or now - known[1] > ESTIMATE_TTL_MS:
            self._latency[name] = (ms, now)
        else:
            self._latency[name] = (known[0] + (ms - known[0]) * NEWEST, now)

    async def run(self) -> None:
        """Probe the backends until cancelled."""
        await self._health.run()

    async def aclose(self) -> None:
        """End the shadow calls and close the backends."""
        await self._shadows.aclose()
        await self.backends.aclose()

    def _guarded(self, target: Target) -> str:
        listed = self._metrics.listed
        return target.model_id if target.model_id in listed else f"{target.backend}/*"

    def _made_ready(self, catalog: CatalogAggregate) -> RoutingTable:
        table = self._table
        if table is not None and table.version == catalog.version:
            return table
        made = RoutingTable(catalog.document, catalog.version)
        self._table = made
        self._metrics.listed = frozenset(made.targets)
        self.backends.keep_only(catalog.document.backends)
        current = self._metrics.listed | {f"{b.name}/*" for b in catalog.document.backends}
        for name in [name for name in self._breakers if name not in current]:
            del self._breakers[name], self._rules[name]
        for name in [name for name in self._latency if name not in current]:
            del self._latency[name]
        return made

    def _breakers_of(self, backend: str) -> list[Breaker]:
        return [b for name, b in self._breakers.items() if name.partition("/")[0] == backend]


class _Told:
    """Hands deltas on, and remembers that there was one."""

    __slots__ = ("_begun", "_on_delta")

    def __init__(self, on_delta: OnDelta) -> None:
        self._on_delta, self._begun = on_delta, False

    def __call__(self, text: str) -> None:
        self._begun = True
        self._on_delta(text)

    def has_begun(self) -> bool:
        """Whether the caller has seen anything."""
        return self._begun


def _never() -> bool:
    return False
