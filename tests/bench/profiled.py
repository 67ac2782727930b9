"""`python -m tests.bench.profiled DIR NAME`: one of AgentOS's processes under cProfile."""

import cProfile
import sys
import time
from pathlib import Path

from agentos.cli.process import main


def profile(directory: str, name: str) -> None:
    """Run the process until SIGTERM, then leave `DIR/NAME.prof` for `python -m pstats`."""
    profiler = cProfile.Profile(timer=time.thread_time)
    try:
        profiler.runcall(main, [name])
    finally:
        Path(directory).mkdir(parents=True, exist_ok=True)
        profiler.dump_stats(Path(directory) / f"{name}.prof")


if __name__ == "__main__":
    profile(sys.argv[1], sys.argv[2])
