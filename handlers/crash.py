"""Named points in the code where a test may kill this process; nothing happens otherwise."""

from collections.abc import Callable

CrashPoint = Callable[[str], None]


def never(name: str) -> None:
    """Pass every point: what a node does outside of tests."""
