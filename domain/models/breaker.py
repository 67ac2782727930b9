"""The circuit breaker of one model: who keeps failing is left alone, then tried by one call."""

from typing import Final, Literal

from agentos.domain.models.catalog import BreakerRule

State = Literal["closed", "open", "half_open"]
BUCKETS: Final = 10
SHARE: Final = 2


class Breaker:
    """Closed: calls go through. Open: none does. Half-open: one at a time does.

    It opens on `failures` failures within the window that are at least half of the window's
    calls. `open_ms` later a call is let through as a trial: its success closes it, its failure
    opens it anew. All times are milliseconds of a clock that does not run backwards.
    """

    def __init__(self, rule: BreakerRule) -> None:
        self._rule = rule
        self._span = max(1, -(-rule.window_ms // BUCKETS))
        self._slots = [-1] * BUCKETS
        self._passed = [0] * BUCKETS
        self._failed = [0] * BUCKETS
        self._opened_at: int | None = None
        self._trial_at: int | None = None

    def state(self, now_ms: int) -> State:
        """Return where it stands."""
        if self._opened_at is None:
            return "closed"
        return "half_open" if now_ms - self._opened_at >= self._rule.open_ms else "open"

    def admit(self, now_ms: int) -> bool:
        """Whether a call may be made now; who is let through says how it ended.

        A trial that nobody heard of for `open_ms` makes room for another.
        """
        if self._opened_at is None:
            return True
        if now_ms - self._opened_at < self._rule.open_ms:
            return False
        if self._trial_at is not None and now_ms - self._trial_at < self._rule.open_ms:
            return False
        self._trial_at = now_ms
        return True

    def succeeded(self, now_ms: int) -> None:
        """Take in that a call went well; a trial closes the breaker, a straggler does not."""
        if self._opened_at is None:
            self._passed[self._at(now_ms)] += 1
        elif self._trial_at is not None:
            self._close()

    def failed(self, now_ms: int) -> None:
        """Take in that a call failed by the backend's fault."""
        if self._opened_at is not None:
            if self._trial_at is not None:
                self._open(now_ms)
            return
        self._failed[self._at(now_ms)] += 1
        oldest = now_ms // self._span - BUCKETS
        counted = [at for at in range(BUCKETS) if self._slots[at] > oldest]
        failed = sum(self._failed[at] for at in counted)
        passed = sum(self._passed[at] for at in counted)
        if failed >= self._rule.failures and failed * SHARE >= failed + passed:
            self._open(now_ms)

    def gave_up(self) -> None:
        """Take in that a call ended without saying anything of the backend."""
        self._trial_at = None

    def still_down(self, now_ms: int) -> None:
        """Take in that a health probe failed: an open breaker stays open for as long again."""
        if self._opened_at is not None and self._trial_at is None:
            self._opened_at = now_ms

    def _open(self, now_ms: int) -> None:
        self._opened_at, self._trial_at = now_ms, None

    def _close(self) -> None:
        self._opened_at = self._trial_at = None
        self._slots = [-1] * BUCKETS
        self._passed = [0] * BUCKETS
        self._failed = [0] * BUCKETS

    def _at(self, now_ms: int) -> int:
        slot = now_ms // self._span
        at = slot % BUCKETS
        if self._slots[at] != slot:
            self._slots[at] = slot
            self._passed[at] = self._failed[at] = 0
        return at
