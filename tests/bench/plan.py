"""How much is measured, and the floors that several rows share."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from tests.bench.floors import bare_appends, bare_echo
from tests.bench.stats import Figure

CREATED_BYTES: Final = 1650  # a run.created of the accept row, its headers included


@dataclass
class Plan:
    """The size of a measurement. `repeats` runs of each figure, the median of them counts."""

    quick: bool = False
    long: bool = field(default_factory=lambda: os.environ.get("BENCH") == "long")
    _echo: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    _appends: tuple[list[float], list[float], list[float]] = field(
        default_factory=lambda: ([], [], [])
    )

    @property
    def repeats(self) -> int:
        """How often each figure is measured."""
        return 3 if self.quick else 5

    @property
    def seconds(self) -> float:
        """How long load is put on for one value."""
        return 2.0 if self.quick else 5.0

    @property
    def streams(self) -> int:
        """How many event streams are open."""
        return 1_000 if self.quick else 5_000

    @property
    def history(self) -> tuple[int, ...]:
        """How many runs are in the log when growth is looked at."""
        if self.quick:
            return (1_000, 10_000)
        return (1_000, 10_000, 100_000, 1_000_000) if self.long else (1_000, 10_000, 100_000)

    @property
    def restart_events(self) -> int:
        """How many events are in the log when the restart is timed."""
        return 100_000 if self.quick else 1_000_000

    async def echo(self) -> tuple[list[float], list[float]]:
        """Return the bare echo's requests a second at 32 clients, and its p50 in ms alone."""
        while len(self._echo[0]) < self.repeats:
            await self.sample_floors()
        return self._echo

    async def appends(self) -> tuple[list[float], list[float], list[float]]:
        """Return durable appends a second (200 in flight; serial), and the serial p50 in ms."""
        while len(self._appends[0]) < self.repeats:
            await self.sample_floors()
        return self._appends

    async def sample_floors(self) -> None:
        """Measure both once: a row does so between its own trials, as a machine's noise drifts."""
        for kept, new in zip(self._echo, await bare_echo(self.seconds / 2, 1), strict=True):
            kept.extend(new)
        appends = await bare_appends(CREATED_BYTES, self.seconds / 3, 1)
        for kept, new in zip(self._appends, appends, strict=True):
            kept.extend(new)


Row = Callable[[Plan], Awaitable[list[Figure]]]
