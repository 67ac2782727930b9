"""Answers of model calls in this process's memory."""

import time


class MemoryAnswers:
    """As `JetStreamAnswers`, gone with the process."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[int, bytes, float]] = {}
        self._revision = 0

    async def read(self, tenant_id: str, digest: str) -> tuple[int, bytes] | None:
        """Return revision and body of what is kept."""
        found = self._kept.get((tenant_id, digest))
        if found is None or found[2] <= time.monotonic():
            return None
        return found[0], found[1]

    async def write(
        self, tenant_id: str, digest: str, body: bytes, *, expected: int, ttl_s: int
    ) -> int | None:
        """Keep `body` in place of revision `expected`; `None` when another was first."""
        found = await self.read(tenant_id, digest)
        if (found[0] if found else 0) != expected:
            return None
        self._revision += 1
        self._kept[tenant_id, digest] = (self._revision, body, time.monotonic() + ttl_s)
        return self._revision
