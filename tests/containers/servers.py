"""The official NATS and PostgreSQL images as servers of the tests.

`testcontainers` is imported where a server is made: it is only installed where an engine runs.
Ports on the host are chosen once, so that addresses stay the same across a kill and a start.
"""

import socket
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg

NATS_IMAGE: Final = "nats:2.15"
POSTGRES_IMAGE: Final = "pgvector/pgvector:pg18"
USER: Final = "agentos"
PASSWORD: Final = "agentos-in-a-test-container"

_NATS_CONFIG: Final = """\
port: 4222
max_payload: 8MB
jetstream {{
  store_dir: "/data/jetstream"
  max_memory_store: 512MB
{sync}}}
accounts {{
  AGENTOS {{ jetstream: enabled, users: [{{user: "{user}", password: "{password}"}}] }}
}}
"""


class _Server:
    """A container that can be killed and started again with its data."""

    def __init__(self, image: str, inside: int) -> None:
        from testcontainers.core.container import DockerContainer

        self.port = _free_port()
        self.container: Any = DockerContainer(image).with_bind_ports(inside, self.port)
        self.host = ""

    def begin(self) -> None:
        """Make the container and start it for the first time."""
        self.container.start()
        self.host = self.container.get_container_host_ip()
        self._wait()

    def start(self) -> None:
        """Start it again with its data."""
        self.container.get_wrapped_container().start()
        self._wait()

    def kill(self) -> None:
        """End it as a crash does; `start()` brings it back."""
        wrapped = self.container.get_wrapped_container()
        wrapped.kill()
        wrapped.wait(timeout=30)

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def remove(self) -> None:
        """Remove it with its data."""
        self.container.stop()

    def is_ready(self) -> bool:
        """Return whether clients are accepted."""
        raise NotImplementedError

    def _wait(self) -> None:
        _until(self.is_ready, 60)


class ContainerNats(_Server):
    """A NATS server with the settings of the embedded one."""

    def __init__(self, *, sync_always: bool = False) -> None:
        super().__init__(NATS_IMAGE, 4222)
        sync = "  sync_interval: always\n" if sync_always else ""
        config = _NATS_CONFIG.format(sync=sync, user=USER, password=PASSWORD)
        self.container.with_copy_into_container(config.encode(), "/agentos.conf")
        self.container.with_command("-c /agentos.conf")

    @property
    def url(self) -> str:
        """The URL with its credentials."""
        return f"nats://{USER}:{PASSWORD}@{self.host}:{self.port}"

    def is_ready(self) -> bool:
        """Return whether the server greets."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                return connection.recv(5) == b"INFO "
        except OSError:
            return False


class ContainerPostgres(_Server):
    """A PostgreSQL with an empty database `agentos`."""

    def __init__(self) -> None:
        super().__init__(POSTGRES_IMAGE, 5432)
        names = {"POSTGRES_USER": USER, "POSTGRES_DB": USER, "POSTGRES_PASSWORD": PASSWORD}
        self.container.with_envs(**names)

    @property
    def dsn(self) -> str:
        """The connection string."""
        return f"host={self.host} port={self.port} user={USER} password={PASSWORD} dbname={USER}"

    def is_ready(self) -> bool:
        """Return whether a client gets an answer."""
        try:
            with psycopg.connect(self.dsn, connect_timeout=2) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until(holds: Callable[[], bool], within: float) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"not within {within} s: {holds}"
        time.sleep(0.1)
