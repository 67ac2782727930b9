"""The log files of a node's processes."""

import os
from pathlib import Path

from agentos.infra.node.paths import NodePaths

_LARGEST = 10 * 2**20
_TAIL = 64 * 2**10


def rotate(log: Path) -> None:
    """Move a log that has grown large aside; the one before it goes."""
    if log.exists() and log.stat().st_size > _LARGEST:
        log.replace(log.with_suffix(".log.1"))


def tail_of(paths: NodePaths, name: str, lines: int = 15) -> list[str]:
    """Return the last lines of a process's log."""
    try:
        with paths.log_of(name).open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _TAIL))
            return log.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []
