"""A process that kills itself at a named point: what `AGENTOS_CRASH_POINT` asks for in tests."""

import os
import signal
from collections.abc import Callable


def crash_at(point: str) -> Callable[[str], None]:
    """Return a function that kills this very process when it comes to `point`.

    `point` may end in `:<n>`: then it is the nth time it comes there.
    """
    wanted, _, times = point.partition(":")
    left = [int(times or 1)]

    def come_to(name: str) -> None:
        if name == wanted:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return come_to
