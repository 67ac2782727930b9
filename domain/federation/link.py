"""Commits of forwarded runs on their way between two brokers."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from agentos.domain.subjects import StreamRef


class Given(NamedTuple):
    """A commit of a run that came through a peer, at its position in this node's log."""

    ref: StreamRef
    position: int
    first_sequence: int
    body: bytes


class Taken(NamedTuple):
    """A commit as it came from a peer: nothing in it is believed yet. `token` strikes it off."""

    ref: StreamRef
    first_sequence: int
    lines: tuple[bytes, ...]
    token: bytes

    @property
    def last_sequence(self) -> int:
        """The sequence of its last line, if the peer does not lie."""
        return self.first_sequence + len(self.lines) - 1


class Outbox(Protocol):
    """From where one peer takes the events of its runs. `DependencyUnavailableError`."""

    @property
    def stack_id(self) -> str:
        """The peer."""
        ...

    async def position(self) -> int | None:
        """Return the log position of what was given last, `None` for nothing yet."""
        ...

    async def put(self, given: Sequence[Given]) -> None:
        """Add commits in order. One that is repeated soon is kept once."""
        ...

    async def close(self) -> None:
        """Let go of the broker."""
        ...


class Inbox(Protocol):
    """What comes of this node's runs at one peer, at least once."""

    @property
    def stack_id(self) -> str:
        """The peer."""
        ...

    async def why_down(self) -> str:
        """Return why nothing comes at present; empty when the link is live."""
        ...

    async def take(self) -> list[Taken]:
        """Wait for what comes; `DependencyUnavailableError`."""
        ...

    def done(self, token: bytes) -> None:
        """Strike a commit off: it was copied, or is not wanted."""
        ...

    async def close(self) -> None:
        """Let go of the broker; what was not struck off comes again."""
        ...
