"""The bodies of direct model calls in this process's memory."""


class MemoryCallBodies:
    """As `JetStreamCallBodies`, gone with the process."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], bytes] = {}

    async def put(self, tenant_id: str, digest: str, body: bytes) -> None:
        """Keep a call's body."""
        self.kept[tenant_id, digest] = body

    async def read(self, tenant_id: str, digest: str) -> bytes | None:
        """Return a call's body, `None` where none is kept."""
        return self.kept.get((tenant_id, digest))

    async def are_kept(self) -> bool:
        """Return whether there is anything to read at all."""
        return bool(self.kept)
