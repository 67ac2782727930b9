"""The embedded broker without its node: for work on the log while nothing else runs."""

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from agentos.infra import nats_server
from agentos.infra.node.errors import NodeError
from agentos.infra.node.paths import NodePaths
from agentos.infra.settings import Settings

READY_S: Final = 60.0
STOP_S: Final = 60.0


@contextmanager
def lone_broker(settings: Settings) -> Iterator[str]:
    """Start the broker of a node that is down, and give its URL; it is stopped at the end.

    It does not wait for the disk at every write; what was written is on disk once it has
    stopped. Raises `NodeError` when the node runs.
    """
    paths = NodePaths(settings.data_dir)
    paths.create()
    with paths.lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise NodeError("node", f"the node in {paths.data} runs", "agentos down") from exc
        server = nats_server.configure_nats(paths.nats, sync_always=False)
        with paths.log_of("nats").open("ab") as log:
            process = subprocess.Popen(server.argv, stdout=log, stderr=log)
        try:
            if not nats_server.wait_until_ready(server, READY_S):
                raise NodeError("nats", "the broker did not start", "agentos logs nats", "nats")
            yield server.url
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
