"""The commands' end of the supervisor's socket: one JSON object a line, in both directions."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Message = dict[str, Any]


class NoSupervisorError(Exception):
    """No supervisor listens for this data directory."""


def ask(path: Path, request: Message, timeout: float = 60.0) -> Iterator[Message]:
    """Send the request and return the answer's messages as they come.

    Raises `NoSupervisorError` when nobody listens or the supervisor ends in mid-answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    yield json.loads(line)
        except (OSError, ValueError) as exc:
            raise NoSupervisorError(f"no supervisor answers on {path}: {exc}") from exc
