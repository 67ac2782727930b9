"""Where what goes is kept: one file a plan, in the format of `agentos log export`."""

from collections.abc import Sequence
from typing import Protocol

from agentos.domain.log import Recorded
from agentos.domain.retention.retention import Archive


class Archives(Protocol):
    """The node's archive directory."""

    async def write(self, name: str, plan_id: str, records: Sequence[Recorded]) -> Archive:
        """Write commits into a new file; returns once it is on disk and was read back whole.

        Raises `ArchiveError` when what was read back is not what was to be written, `OSError`.
        """
        ...

    async def holds(self, archive: Archive) -> bool:
        """Whether the file is there, byte for byte."""
        ...

    async def discard(self, name: str) -> None:
        """Remove a file that no plan names."""
        ...
