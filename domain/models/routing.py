"""From the name that a client asks for to the models that are tried, in order.

Pure and deterministic: the same catalog, caller and needs give the same plan in every process.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from agentos.domain.errors import (
    DependencyUnavailableError,
    ForbiddenError,
    InvalidRequestError,
)
from agentos.domain.models.catalog import (
    MICRO,
    OPERATIONS,
    BackendEntry,
    Catalog,
    ModelEntry,
    Operation,
    Retries,
    RouteEntry,
    Step,
    TargetEntry,
)
from agentos.domain.models.plan import Plan, ShadowTarget, Skipped, Target, Who
from agentos.domain.ports import Requirements
from agentos.domain.values import value

IsAllowed = Callable[[str, Target], bool]
LatencyOf = Callable[[str], int | None]
NOT_ENTITLED: Final = "not_entitled"
REMEMBERED: Final = 1_000
ONCE: Final = Retries()


@value
class Needs:
    """What the call asks of a model, and its size at the worst (`None`: what the model may do)."""

    requirements: Requirements | None = None
    input_tokens: int = 0
    output_tokens: int | None = None


NO_NEEDS: Final = Needs()


@dataclass(frozen=True, slots=True)
class _Step:
    plain: tuple[Target, ...]
    canaries: tuple[tuple[float, float, str, Target], ...]  # from and to percent, by whom


@dataclass(frozen=True, slots=True)
class _Route:
    name: str
    steps: tuple[_Step, ...]
    retries: Retries
    shadow: tuple[ShadowTarget, ...]
    fixed: Plan | None


class RoutingTable:
    """One version of the catalog, made ready for looking things up."""

    def __init__(self, catalog: Catalog, version: int) -> None:
        self.version = version
        self.catalog = catalog
        self._servers = {entry.name: entry for entry in catalog.backends}
        self.targets = {
            entry.model_id: _target(entry, self._servers[entry.backend]) for entry in catalog.models
        }
        self._any: dict[str, Target] = {}
        self._by_name: dict[str, list[Target]] = {}
        for target in self.targets.values():
            self._by_name.setdefault(target.model, []).append(target)
        self._routes = {(r.name, r.operation): self._compiled(r) for r in catalog.routes}
        self._single: dict[str, _Route] = {}

    def plan(
        self,
        model_ref: str,
        operation: Operation,
        who: Who,
        is_allowed: IsAllowed,
        *,
        needs: Needs = NO_NEEDS,
        latency_of: LatencyOf | None = None,
    ) -> Plan:
        """Return the targets for a call: `tier:…` or an alias, a model's id, or its bare name.

        `is_allowed(name asked for, target)` is the tenant's entitlement; `latency_of(model_id)`
        what a model's calls take of late, if anything is known. Raises `InvalidRequestError`
        for a name that leads nowhere and for requirements that no model fits (`details` names
        them), `ForbiddenError` where the tenant may use none of it,
        `DependencyUnavailableError` where all that is left is slower than its route allows.
        """
        route = self._routes.get((model_ref, operation))
        if route is None:
            route = self._of_model(model_ref, operation, is_allowed)
        if route.fixed is not None and needs.requirements is None:
            plan = route.fixed
            for target in plan.targets:
                if not is_allowed(model_ref, target):
                    break
            else:
                return plan
        return self._chosen(route, model_ref, who, is_allowed, needs, latency_of)

    def target(self, model_id: str) -> Target | None:
        """Return the model of that id; also one that its backend takes without an entry."""
        found = self.targets.get(model_id) or self._any.get(model_id)
        if found is not None:
            return found
        backend, slash, name = model_id.partition("/")
        server = self._servers.get(backend)
        if not (slash and name) or server is None or not server.any_model:
            return None
        if len(self._any) >= REMEMBERED:
            self._any.clear()
        entry = ModelEntry.model_construct(
            model_id=model_id,
            provider=None,
            capabilities=OPERATIONS,
            tier=None,
            context_window_tokens=None,
            max_output_tokens=None,
            price=None,
        )
        self._any[model_id] = made = _target(entry, server)
        return made

    def _of_model(self, model_ref: str, operation: Operation, is_allowed: IsAllowed) -> _Route:
        target = self.target(model_ref) or self._named(model_ref, operation, is_allowed)
        if target is None:
            raise self._unknown(model_ref, operation)
        if operation not in target.entry.capabilities:
            raise InvalidRequestError(f"the model has no {operation}", model_ref=model_ref)
        known = self._single.get(target.model_id)
        if known is None:
            if len(self._single) >= REMEMBERED:
                self._single.clear()
            step = _Step((target,), ())
            known = _route(target.model_id, (step,), ONCE, (), self.version)
            self._single[target.model_id] = known
        return known

    def _named(self, name: str, operation: Operation, is_allowed: IsAllowed) -> Target | None:
        """Return the model of a bare name, if only one that can do it has the name."""
        found = self._by_name.get(name, ())
        able = [target for target in found if operation in target.entry.capabilities]
        allowed = [target for target in able if is_allowed(name, target)]
        if len(allowed) > 1:
            raise InvalidRequestError(
                "several backends have a model of this name: say <backend>/<model>",
                model_ref=name,
                candidates=sorted(target.model_id for target in allowed),
            )
        return next(iter([*allowed, *able, *found]), None)

    def _unknown(self, model_ref: str, operation: Operation) -> InvalidRequestError:
        if any((model_ref, other) in self._routes for other in OPERATIONS):
            return InvalidRequestError(f"the route has no {operation}", model_ref=model_ref)
        return InvalidRequestError("no such model", model_ref=model_ref)

    def _chosen(
        self,
        route: _Route,
        asked: str,
        who: Who,
        is_allowed: IsAllowed,
        needs: Needs,
        latency_of: LatencyOf | None,
    ) -> Plan:
        targets: dict[str, Target] = {}
        skipped: dict[str, str] = {}
        for number, step in enumerate(route.steps):
            for target in _ordered(step, f"{route.name}\0{number}\0", who):
                if target.model_id in targets:
                    continue
                if not is_allowed(asked, target):
                    skipped[target.model_id] = NOT_ENTITLED
                elif why := misfit(target, needs, latency_of):
                    skipped[target.model_id] = why
                else:
                    targets[target.model_id] = target
        if not targets:
            raise _nothing_left(asked, skipped)
        return Plan(
            route.name,
            self.version,
            tuple(targets.values()),
            route.retries,
            tuple(s for s in route.shadow if is_allowed(asked, s.target)),
            tuple(Skipped(m, why) for m, why in skipped.items() if m not in targets),
        )

    def _compiled(self, entry: RouteEntry) -> _Route:
        steps = tuple(self._step(step) for step in entry.chain)
        shadow = tuple(
            ShadowTarget(self._known(copy.model_id), copy.percent) for copy in entry.shadow
        )
        return _route(entry.name, steps, entry.retries, shadow, self.version)

    def _known(self, model_id: str) -> Target:
        target = self.target(model_id)
        if target is None:  # the document's rules do not let this be
            raise ValueError(f"no such model: {model_id}")
        return target

    def _step(self, step: Step) -> _Step:
        plain: list[Target] = []
        canaries: list[tuple[float, float, str, Target]] = []
        start = {"tenant": 0.0, "agent": 0.0}
        for entry in step.targets:
            found = self._known(entry.model_id)
            target = _target(found.entry, found.server, entry)
            if entry.canary is None:
                plain.append(target)
                continue
            by, low = entry.canary.by, start[entry.canary.by]
            start[by] = low + entry.canary.percent
            canaries.append((low, start[by], by, target))
        return _Step(tuple(plain), tuple(canaries))


def _route(
    name: str,
    steps: tuple[_Step, ...],
    retries: Retries,
    shadow: tuple[ShadowTarget, ...],
    version: int,
) -> _Route:
    """Return a route; where the caller makes no difference to it, with its one plan."""
    is_fixed = not shadow and all(
        len(step.plain) == 1 and not step.canaries and not _has_limits(step.plain[0].limits)
        for step in steps
    )
    targets = tuple(step.plain[0] for step in steps) if is_fixed else ()
    fixed = Plan(name, version, targets, retries) if is_fixed else None
    return _Route(name, steps, retries, shadow, fixed)


def _has_limits(entry: TargetEntry | None) -> bool:
    if entry is None:
        return False
    return entry.max_latency_ms is not None or entry.max_cost_usd is not None


def _target(entry: ModelEntry, server: BackendEntry, limits: TargetEntry | None = None) -> Target:
    return Target(
        backend=entry.backend,
        model=entry.name,
        model_id=entry.model_id,
        tier=entry.tier,
        price=entry.price,
        entry=entry,
        server=server,
        limits=limits,
    )


def _ordered(step: _Step, salt: str, who: Who) -> Iterable[Target]:
    """Return the step's targets for this caller: its canary first, then by weighted hash."""
    chosen = [
        target
        for low, high, by, target in step.canaries
        if low <= share(f"{salt}{by}\0{who.canary_key(by)}") * 100 < high
    ]
    if len(step.plain) < 2:
        return [*chosen, *step.plain]
    sticky = f"{salt}{who.sticky}\0"
    return [*chosen, *sorted(step.plain, key=lambda target: _distance(target, sticky))]


def _distance(target: Target, sticky: str) -> float:
    """Return how far behind a target comes: least first, in proportion to its weight."""
    weight = 1 if target.limits is None else target.limits.weight
    return -math.log(share(sticky + target.model_id) or 1e-300) / weight


def share(text: str) -> float:
    """Return the number in [0, 1) that follows from `text`, evenly spread."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return (int.from_bytes(digest, "big") >> 3) / 2**53


def misfit(target: Target, needs: Needs, latency_of: LatencyOf | None) -> str | None:
    """Return which requirement the target does not fit, of the call or (`route.…`) of its route.

    What is not known of a price or a context window does not fit; a latency not seen yet does.
    """
    asked, limits = needs.requirements, target.limits
    if asked is not None and asked.min_context_tokens is not None:
        window = target.entry.context_window_tokens
        if window is None or window < asked.min_context_tokens:
            return "min_context_tokens"
    latency = latency_of(target.model_id) if latency_of is not None else None
    if latency is not None:
        if asked is not None and _over(latency, asked.max_latency_ms):
            return "max_latency_ms"
        if limits is not None and _over(latency, limits.max_latency_ms):
            return "route.max_latency_ms"
    most = None if asked is None else asked.max_cost_usd
    own = None if limits is None else limits.max_cost_usd
    if most is None and own is None:
        return None
    cost = worst_micro_usd(target, needs)
    if most is not None and (cost is None or cost > most * MICRO):
        return "max_cost_usd"
    if own is not None and (cost is None or cost > own * MICRO):
        return "route.max_cost_usd"
    return None


def _over(value: int, most: int | None) -> bool:
    return most is not None and value > most


def worst_micro_usd(target: Target, needs: Needs) -> int | None:
    """Return what the call may cost at most, `None` if nobody can say."""
    output = needs.output_tokens
    if output is None:
        output = target.entry.max_output_tokens
    if target.price is None:
        return None
    if output is None:
        return None if target.price.output_per_million else target.micro_usd(needs.input_tokens, 0)
    return target.micro_usd(needs.input_tokens, output)


def _nothing_left(
    asked: str, skipped: dict[str, str]
) -> ForbiddenError | InvalidRequestError | DependencyUnavailableError:
    reasons: Sequence[str] = sorted(set(skipped.values()) - {NOT_ENTITLED})
    if not reasons:
        return ForbiddenError("the tenant may not use this model", model_ref=asked)
    if reasons == ["route.max_latency_ms"]:
        return DependencyUnavailableError(
            "every model of this route is slower than the route allows now",
            dependency="models",
            model_ref=asked,
        )
    return InvalidRequestError(
        f"no model fits {', '.join(reasons)}", model_ref=asked, requirements=reasons
    )
