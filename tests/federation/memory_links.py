"""The two ends of a link in memory; as `JetStreamGiven` and `JetStreamTaken`."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from agentos.domain.federation.link import Given, Taken
from agentos.domain.subjects import StreamRef
from tests.federation.fake_peer import RUN


def taken(*events: dict[str, Any], run: str = RUN, tenant: str = "tnt_a") -> Taken:
    """Return events as one commit that comes from a peer."""
    first = events[0]["event"]["sequence"]
    lines = tuple(json.dumps(event, separators=(",", ":")).encode() for event in events)
    return Taken(StreamRef(tenant, "run", run), first, lines, f"token.{run}.{first}".encode())


class MemoryInbox:
    """What comes is what a test puts; `why` is why nothing does."""

    def __init__(self, stack_id: str = "stk_fake") -> None:
        self.stack_id = stack_id
        self.why = ""
        self.struck: list[bytes] = []
        self._waiting: asyncio.Queue[Taken] = asyncio.Queue()

    def put(self, *pieces: Taken) -> None:
        """Let commits come."""
        for piece in pieces:
            self._waiting.put_nowait(piece)

    async def why_down(self) -> str:
        """Return what the test says."""
        return self.why

    async def take(self) -> list[Taken]:
        """Wait for what the test puts."""
        return [await self._waiting.get()]

    def done(self, token: bytes) -> None:
        """Remember it."""
        self.struck.append(token)

    async def close(self) -> None:
        """Nothing is held."""


class MemoryOutbox:
    """Keeps what is given."""

    def __init__(self, stack_id: str = "stk_a") -> None:
        self.stack_id = stack_id
        self.given: list[Given] = []
        self.grown = asyncio.Event()

    async def position(self) -> int | None:
        """Return the last position."""
        return self.given[-1].position if self.given else None

    async def put(self, given: Sequence[Given]) -> None:
        """Keep commits."""
        self.given += given
        self.grown.set()

    async def close(self) -> None:
        """Nothing is held."""
