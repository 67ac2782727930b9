"""Time that passes only when nothing else is to be done: waits cost nothing and never race."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from tests.domain.given import T0

P = ParamSpec("P")
STEP_S = 1e-6


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        selector: Any = self._selector  # type: ignore[attr-defined]  # asyncio's own
        select = selector.select

        def jump(timeout: float | None) -> Any:
            if timeout is None:
                raise RuntimeError("everything waits, and for nothing that could come")
            if timeout > 0:  # a step too small for the clock would stand still for ever
                self._now += max(STEP_S, timeout)
            return select(0)

        selector.select = jump

    def time(self) -> float:
        """Return the virtual seconds."""
        return self._now


class VirtualClock:
    """The time of day on a virtual loop; `skew_ms` sets one process's clock apart."""

    def __init__(self, skew_ms: int = 0) -> None:
        self.skew_ms = skew_ms

    def now_ms(self) -> int:
        """Return the milliseconds since the epoch."""
        return T0 + round((asyncio.get_running_loop().time() - 1000) * 1000) + self.skew_ms


def run_virtual(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


def virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make an async test one that runs in virtual time."""

    @functools.wraps(test)
    def in_virtual_time(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(test(*args, **kwargs))

    return in_virtual_time
