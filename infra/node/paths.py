"""Where everything of a node lies."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

_LONGEST_SOCKET = 100  # a unix socket's path has at most 107 bytes on Linux, 103 on macOS


@dataclass(frozen=True)
class NodePaths:
    """The files of the node in one data directory."""

    data: Path

    @property
    def logs(self) -> Path:
        """Return the directory of the log files, one for each process."""
        return self.data / "logs"

    @property
    def nats(self) -> Path:
        """Return the home of the embedded NATS server."""
        return self.data / "nats"

    @property
    def lock(self) -> Path:
        """Return the file that the living supervisor holds locked."""
        return self.data / "node.lock"

    @property
    def marker(self) -> Path:
        """Return the file that says what the data directory holds, and since which layout."""
        return self.data / "node.json"

    @property
    def state(self) -> Path:
        """Return the file that says which processes run."""
        return self.data / "state.json"

    @property
    def runtime(self) -> Path:
        """Return the file that the node's processes read their connections from."""
        return self.data / "runtime.json"

    @property
    def audit_key(self) -> Path:
        """Return the private key that signs the audit's checkpoints, where none is given."""
        return self.data / "audit_key.pem"

    @property
    def content_key(self) -> Path:
        """Return the key that data subjects' keys are wrapped with, where none is given."""
        return self.data / "content_key"

    @property
    def jwt_secret(self) -> Path:
        """Return the file with the generated signing secret."""
        return self.data / "jwt_secret"

    @property
    def control(self) -> Path:
        """Return the supervisor's socket; in `/tmp` when the data directory's path is long."""
        inside = self.data / "run" / "control.sock"
        if len(os.fsencode(inside)) <= _LONGEST_SOCKET:
            return inside
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return Path("/tmp") / f"agentos-{os.geteuid()}-{digest}" / "control.sock"  # noqa: S108 - its owner is checked

    @property
    def mark(self) -> str:
        """Return the argument that every process of this node, and no other, was started with."""
        return f"--node={self.data}"

    def log_of(self, name: str) -> Path:
        """Return the log file of a process."""
        return self.logs / f"{name}.log"

    def create(self) -> None:
        """Make the directories. As root others may pass through the data directory, not read."""
        mode = 0o711 if os.geteuid() == 0 else 0o700
        self.data.mkdir(parents=True, exist_ok=True, mode=0o755)
        if not any(self.data.iterdir()):
            self.data.chmod(mode)
        self.logs.mkdir(exist_ok=True, mode=0o700)
        self.control.parent.mkdir(exist_ok=True, mode=0o700)
        if self.control.parent.stat().st_uid != os.geteuid():
            raise PermissionError(f"{self.control.parent} belongs to another account; remove it")
