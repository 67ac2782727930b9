"""Ports of this machine: which are free, and who holds one that is not."""

import random
import socket

# Below the usual ephemeral range, so that no outgoing connection takes a port while its
# server is being restarted.
_FIRST, _LAST = 20000, 32000


class PortTakenError(Exception):
    """Another program listens on a port that the node needs."""

    def __init__(self, port: int, holder: str | None) -> None:
        by = f" by {holder}" if holder else ""
        super().__init__(f"port {port} is taken{by}")
        self.port = port


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a server could listen on the port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def pick_port(preferred: int | None = None, avoid: frozenset[int] = frozenset()) -> int:
    """Return the preferred port when it is free, else a random free one."""
    if preferred and preferred not in avoid and is_free(preferred):
        return preferred
    for _ in range(1000):
        port = random.randint(_FIRST, _LAST)  # noqa: S311 - spreads nodes, guards nothing
        if port not in avoid and is_free(port):
            return port
    raise PortTakenError(_FIRST, None)


def holder_of(port: int) -> str | None:
    """Return `name (pid n)` of the program that listens on the port, when it can be seen."""
    import psutil  # noqa: PLC0415 - only when something is wrong

    pid = pid_on(port)
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})" if pid else None
    except psutil.Error:
        return None


def pid_on(port: int) -> int | None:
    """Return the pid of the program that listens on the port, when it can be seen."""
    import psutil  # noqa: PLC0415 - only when something is wrong

    try:
        listening = psutil.net_connections("tcp")
        pids = [
            c.pid for c in listening if c.status == "LISTEN" and getattr(c.laddr, "port", 0) == port
        ]
        return next((pid for pid in pids if pid), None)
    except psutil.Error:
        return None
