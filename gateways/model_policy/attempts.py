"""One call on its way through a plan: attempts, pauses, the next target, until one answers."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import perf_counter
from typing import Any, Final, Generic, Protocol, TypeVar

from agentos.domain.errors import AgentOSError, DependencyUnavailableError, TimedOutError
from agentos.domain.models.breaker import Breaker
from agentos.domain.models.plan import Plan, Target
from agentos.domain.ports import EmbedRequest, ModelBackend, ModelRequest, Usage
from agentos.domain.values import value
from agentos.gateways.model_policy.backends import Backends, Slot
from agentos.gateways.model_policy.failures import Meaning, meaning_of, usage_of

A = TypeVar("A")
R = TypeVar("R", ModelRequest, EmbedRequest)
OK: Final = "ok"
OPEN: Final = "breaker_open"
BUSY: Final = "busy"
CANCELED: Final = "canceled"
MAX_PAUSE_MS: Final = 8_000
PATIENT_MS: Final = 30_000
IN_PROCESS: Final = frozenset({"builtin", "local"})


@value
class Attempt:
    """One attempt as `explain` shows it. `usage` is what a call that broke off has used.

    `seconds` is the time that a backend which answered took for itself. One that is not `is_sent`
    never reached a backend: the connection was not made, or there was no place in time.

    `outcome` is `ok`, `error` (then `code` says which), `breaker_open`, `busy` or `canceled`.
    """

    backend: str
    model: str
    outcome: str
    code: str | None
    ms: int
    usage: Usage | None = None
    seconds: float = 0.0
    is_sent: bool = True

    def to_wire(self) -> dict[str, Any]:
        """Return `{backend, model, outcome, code, ms}`."""
        return {
            "backend": self.backend,
            "model": self.model,
            "outcome": self.outcome,
            "code": self.code,
            "ms": self.ms,
        }


class Surroundings(Protocol):
    """What attempts share with each other: breakers, estimates, counters, a clock."""

    backends: Backends
    chance: random.Random

    def now_ms(self) -> int:
        """Return milliseconds of a clock that does not run backwards."""
        ...

    def breaker(self, target: Target) -> Breaker:
        """Return the breaker that guards a target."""
        ...

    def ended(self, target: Target, outcome: str, ms: int) -> None:
        """Take in how an attempt ended: `ok` or an error's code."""
        ...


@value
class Reached(Generic[A]):
    """An answer, whose it is, and whether the plan's first target failed to give it."""

    answer: A
    target: Target
    fallback_used: bool


class Journey(Generic[R, A]):
    """One call. `ask(backend, model, request)` makes one attempt; `has_begun` ends all choice.

    `prepare(target)` gives the request as it may go to that target. `sent` is what went last.
    """

    def __init__(
        self,
        around: Surroundings,
        plan: Plan,
        request: R,
        ask: Callable[[ModelBackend, str, R], Awaitable[A]],
        *,
        has_begun: Callable[[], bool],
        trail: list[Attempt],
        prepare: Callable[[Target], R] | None = None,
    ) -> None:
        self._around, self._plan = around, plan
        self._request: R = request
        self.sent: R = request
        self._is_asked = False
        self._ask: Callable[[ModelBackend, str, R], Awaitable[A]] = ask
        self._has_begun, self._trail = has_begun, trail
        self._prepare: Callable[[Target], R] | None = prepare
        asked = request.requirements
        total = request.timeout_ms
        if asked is not None and asked.max_latency_ms is not None:
            total = min(total, asked.max_latency_ms)
        self._deadline = around.now_ms() + total
        self._last_error: AgentOSError | None = None

    async def run(self) -> Reached[A]:
        """Return the first answer; the last error when there is none."""
        targets = self._plan.targets
        for number, target in enumerate(targets):
            is_last = number == len(targets) - 1
            tries = self._plan.retries.attempts if target.server.kind not in IN_PROCESS else 1
            for attempt in range(tries):
                breaker = self._around.breaker(target)
                now = self._around.now_ms()
                if not breaker.admit(now):
                    self._passed_over(target, OPEN)
                    break
                found = await self._try(target, breaker, now, is_last=is_last)
                if found is None:
                    break
                if not isinstance(found, AgentOSError):
                    return Reached(found, target, number > 0)
                self._last_error = found
                meaning = meaning_of(found)
                if self._has_begun() or not (meaning.again or meaning.elsewhere):
                    raise found
                if not meaning.again or attempt == tries - 1:
                    break
                if not await self._paused(attempt, found, is_last=is_last):
                    break
            if self._left_ms() <= 0:
                break
        raise self._failure()

    async def _try(
        self, target: Target, breaker: Breaker, began: int, *, is_last: bool
    ) -> A | AgentOSError | None:
        """Make one attempt: its answer or its error; `None` when the next target has a place."""
        around = self._around
        limit = self._limit_ms(target, began, is_last=is_last)
        self._is_asked = False
        try:
            slot = around.backends.hold(target.server)
        except AgentOSError as error:
            return self._failed(target, breaker, error, began, limit)
        try:
            if slot.is_full and not is_last:
                breaker.gave_up()
                self._passed_over(target, BUSY)
                return None
            return await self._asked(slot, target, breaker, began, limit)
        except AgentOSError as error:
            return self._failed(target, breaker, error, began, limit)
        except BaseException:  # cancelled, or a mistake of ours: the breaker learns nothing
            breaker.gave_up()
            self._note(target, CANCELED, None, began)
            raise
        finally:
            around.backends.release(slot)

    async def _asked(
        self, slot: Slot, target: Target, breaker: Breaker, began: int, limit: int
    ) -> A:
        around = self._around
        if slot.is_bounded:
            await slot.enter(limit)
        try:
            request = self._request if self._prepare is None else self._prepare(target)
            limit = max(1, min(limit, self._left_ms()))  # a place may have been waited for
            if limit != request.timeout_ms:
                request = replace(request, timeout_ms=limit)
            self.sent = request
            self._is_asked = True
            sent = perf_counter()
            answer = await self._ask(slot.backend, target.model, request)
            seconds = perf_counter() - sent
        finally:
            slot.leave()
        now = around.now_ms()
        breaker.succeeded(now)
        around.ended(target, OK, now - began)
        took = Attempt(target.backend, target.model, OK, None, now - began, seconds=seconds)
        self._trail.append(took)
        return answer

    def _failed(
        self, target: Target, breaker: Breaker, error: AgentOSError, began: int, limit: int
    ) -> AgentOSError:
        now = self._around.now_ms()
        if _is_to_blame(meaning_of(error), error, target, limit):
            breaker.failed(now)
        else:
            breaker.gave_up()
        self._around.ended(target, error.code, now - began)
        self._note(target, "error", error, began)
        return error

    def _passed_over(self, target: Target, outcome: str) -> None:
        self._around.ended(target, outcome, 0)
        passed = Attempt(target.backend, target.model, outcome, None, 0, is_sent=False)
        self._trail.append(passed)

    def _note(self, target: Target, outcome: str, error: AgentOSError | None, began: int) -> None:
        self._trail.append(
            Attempt(
                target.backend,
                target.model,
                outcome,
                None if error is None else error.code,
                self._around.now_ms() - began,
                None if error is None else usage_of(error),
                is_sent=self._is_asked
                and (error is None or error.details.get("stage") != "connect"),
            )
        )

    async def _paused(self, attempt: int, error: AgentOSError, *, is_last: bool) -> bool:
        """Wait before the next attempt; at once `False` where that is not worth it.

        Half to all of a pause that doubles, and not before the server says; a server that
        wants longer than that is left for the next target, if there is one.
        """
        most = min(MAX_PAUSE_MS, self._plan.retries.base_backoff_ms << attempt)
        pause = self._around.chance.uniform(most / 2, most)
        after = error.details.get("retry_after_ms")
        if isinstance(after, int | float) and after > 0:
            if not is_last and after > MAX_PAUSE_MS:
                return False
            pause += after
        if pause >= self._left_ms():
            return False
        await asyncio.sleep(pause / 1000)
        return True

    def _limit_ms(self, target: Target, now: int, *, is_last: bool) -> int:
        """Return how long this attempt may take: a slow one leaves time for the next target."""
        limit = min(self._deadline - now, target.server.timeouts.total_ms)
        own = None if target.limits is None else target.limits.max_latency_ms
        if own is not None and not is_last:
            limit = min(limit, own)
        return max(1, limit)

    def _left_ms(self) -> int:
        return self._deadline - self._around.now_ms()

    def _failure(self) -> AgentOSError:
        if self._last_error is not None:
            return self._last_error
        if self._left_ms() <= 0:
            return TimedOutError("no model answered in time")
        return DependencyUnavailableError(
            "no model of this route can be called now", dependency="models"
        )


def _is_to_blame(meaning: Meaning, error: AgentOSError, target: Target, limit: int) -> bool:
    """Whether a failure counts against the backend: no timeout that only the caller was short of.

    Else one caller with a limit of a millisecond would open the breaker for all.
    """
    if error.code != "timeout":
        return meaning.blame
    own = None if target.limits is None else target.limits.max_latency_ms
    return limit in (own, target.server.timeouts.total_ms) or limit >= PATIENT_MS
