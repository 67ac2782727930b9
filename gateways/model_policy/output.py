"""An answer on its way to the caller: policy looks at it, and the reservation bounds it."""

from typing import Final

from agentos.domain.policy.compiled import CompiledPolicy
from agentos.domain.policy.facts import Facts
from agentos.domain.policy.verdict import Verdict
from agentos.domain.ports import OnDelta

CHARACTERS_A_TOKEN: Final = 16
FIELD: Final = "output.content"


class ReservationReachedError(Exception):
    """The backend sends more than was reserved: the stream ends here, with what came so far."""


class Output:
    """The text of one streamed answer. `feed` is what the backend hands its pieces to.

    A backend is told the limit; one that does not keep it is stopped. Tokens are not counted
    by anybody in mid-stream: every piece is one at least, and no token is longer than 16
    characters on average.
    """

    def __init__(
        self, policy: CompiledPolicy, facts: Facts, on_delta: OnDelta, max_tokens: int | None
    ) -> None:
        self._guard = policy.stream(facts)
        self._on_delta = on_delta
        self._max_tokens = max_tokens
        self._sent: list[str] = []
        self._pieces = 0
        self.characters = 0

    def feed(self, text: str) -> None:
        """Let through what may go; `ReservationReachedError` when it is too much."""
        self._pieces += 1
        self.characters += len(text)
        self._send(self._guard.feed(text))
        limit = self._max_tokens
        if limit is not None and (
            self._pieces > limit or self.characters > limit * CHARACTERS_A_TOKEN
        ):
            raise ReservationReachedError

    def finish(self) -> str:
        """Let the rest through; returns everything that was."""
        self._send(self._guard.finish())
        return self.text()

    def text(self) -> str:
        """Return everything that was let through."""
        return "".join(self._sent)

    @property
    def held(self) -> str:
        """What came and is not let through yet."""
        return self._guard.held

    @property
    def is_blocked(self) -> bool:
        """Whether policy has seen what it does not let pass: nothing goes out any more."""
        return self._guard.is_blocked

    @property
    def verdict(self) -> Verdict:
        """What policy says of the text so far."""
        return self._guard.verdict

    def _send(self, text: str) -> None:
        if text:
            self._sent.append(text)
            self._on_delta(text)
