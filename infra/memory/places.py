"""Positions of followers in memory."""


class MemoryPlaces:
    """As `Places`, for as long as the object lives."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}

    async def get(self, name: str) -> int | None:
        """Return the position that was kept last."""
        return self.kept.get(name)

    async def keep(self, name: str, position: int) -> None:
        """Keep a position."""
        self.kept[name] = position
