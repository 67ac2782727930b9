"""The log files of a node's processes."""

import os
import re
from pathlib import Path

from agentos.infra.node.paths import NodePaths

_LARGEST = 10 * 2**20
_TAIL = 64 * 2**10
# In turn as NATS, PostgreSQL and our own processes write it.
_INFORMATION = re.compile(
    r"\[(?:INF|DBG|TRC)\]|(?:^|\s)(?:LOG|DEBUG\d?|INFO|NOTICE):  |\"level\": ?\"(?:info|debug)\""
    # Which is how the node itself writes the broker's file, readable by its owner only.
    r"|Plaintext passwords detected"
)


def rotate(log: Path) -> None:
    """Move a log that has grown large aside; the one before it goes."""
    if log.exists() and log.stat().st_size > _LARGEST:
        log.replace(log.with_suffix(".log.1"))


def sizes_of(paths: NodePaths) -> dict[str, int]:
    """Return how long each log is now, by the name of its process."""
    return {log.stem: log.stat().st_size for log in paths.logs.glob("*.log")}


def troubles_of(paths: NodePaths, name: str, since: int = 0, lines: int = 8) -> list[str]:
    """Return the last lines that say what went wrong, of what was logged behind `since`.

    What a server or a process of ours itself calls information is left out; a line without a
    level, such as one of a traceback, is not.
    """
    try:
        with paths.log_of(name).open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(since if since <= size else 0, size - _TAIL))
            said = log.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in said if line.strip() and not _INFORMATION.search(line)][-lines:]


def tail_of(paths: NodePaths, name: str, lines: int = 15) -> list[str]:
    """Return the last lines of a process's log."""
    try:
        with paths.log_of(name).open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _TAIL))
            return log.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []
