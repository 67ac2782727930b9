"""How far the copy of one remote run is, and the lines on their way into it."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agentos.domain.errors import NotFoundError
from agentos.domain.federation.remote import RemoteRun
from agentos.domain.subjects import StreamRef

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
COMMAND_BYTES: Final = 1024 * 1024
COMMAND_LINES: Final = 5_000
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Box:
    """Lines on their way from a peer's stream into commands."""

    lines: list[bytes] = field(default_factory=list)
    size: int = 0
    is_final: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    room: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, line: bytes) -> None:
        """Take a line."""
        self.lines.append(line)
        self.size += len(line)
        self.ready.set()
        if self.size >= COMMAND_BYTES:
            self.room.clear()

    def take(self) -> list[bytes]:
        """Hand out a command's worth of lines."""
        count = worth(self.lines)
        size = sum(map(len, self.lines[:count]))
        taken, self.lines = self.lines[:count], self.lines[count:]
        self.size -= size
        if not self.lines:
            self.ready.clear()
        self.room.set()
        return taken


@dataclass(slots=True)
class Progress:
    """How far one copy is, and since when it is cut off."""

    ref: StreamRef
    stack_id: str
    copied: int = 0
    has_ended: bool = False
    pause: float = FIRST_PAUSE_S
    cut_since: float | None = None

    def at(self, remote: RemoteRun) -> None:
        """Take over what the log says; a copy that was never begun is no copy."""
        if remote.view_state is None:
            raise NotFoundError("no such remote run")
        self.copied, self.has_ended = remote.copied, remote.has_ended
        self.stack_id = remote.linked.stack_id

    def cut(self, why: str) -> None:
        """Note that the peer's stream is cut off."""
        if self.cut_since is None:
            log.warning("the copy of %s is cut off: %s", self.ref.aggregate_id, why)
            self.cut_since = time.monotonic()

    def filling(self, by: str) -> dict[str, Any]:
        """Return what says that the next lines fill in a cut, if they do."""
        if self.cut_since is None:
            return {}
        cut_ms = round((time.monotonic() - self.cut_since) * 1000)
        return {"filled_by": by, "cut_ms": cut_ms}

    def wrote(self, copied: int, *, has_ended: bool) -> None:
        """Take over what a handler wrote."""
        if copied > self.copied:
            self.cut_since, self.pause = None, FIRST_PAUSE_S
        self.copied, self.has_ended = copied, has_ended

    def next_pause(self) -> float:
        """Return how long to wait now; the next wait is longer."""
        pause, self.pause = self.pause, min(self.pause * 2, LONGEST_PAUSE_S)
        return pause


def worth(lines: Sequence[bytes]) -> int:
    """Return how many lines go into one command: at least one, else what its bytes allow."""
    size, count = 0, 0
    for line in lines[:COMMAND_LINES]:
        size += len(line)
        if count and size > COMMAND_BYTES:
            break
        count += 1
    return count
