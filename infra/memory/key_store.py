"""Data subjects' wrapped keys in this process's memory."""


class MemoryKeyStore:
    """As `JetStreamContentKeys`, gone with the process."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], bytes] = {}

    async def read(self, tenant_id: str, key_id: str) -> bytes | None:
        """Return what is kept: `None` for nothing, `b""` for a key that was destroyed."""
        return self._kept.get((tenant_id, key_id))

    async def create(self, tenant_id: str, key_id: str, body: bytes) -> bool:
        """Keep a key; `False`, and nothing is changed, where there is or was one."""
        return self._kept.setdefault((tenant_id, key_id), body) is body

    async def destroy(self, tenant_id: str, key_id: str) -> bool:
        """Drop what is kept and let no key be kept there again; whether there was one."""
        was_there = bool(self._kept.get((tenant_id, key_id)))
        self._kept[tenant_id, key_id] = b""
        return was_there
