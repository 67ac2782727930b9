"""Where a follower of the log has come to, kept across restarts."""

from typing import Protocol


class Places(Protocol):
    """Log positions by the name of who keeps them: notes, not events."""

    async def get(self, name: str) -> int | None:
        """Return the position that was kept last, `None` if none ever was.

        Raises `DependencyUnavailableError`.
        """
        ...

    async def keep(self, name: str, position: int) -> None:
        """Keep a position. Raises `DependencyUnavailableError`."""
        ...
