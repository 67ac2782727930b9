"""The account that servers run as when the node itself runs as root."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

NAME, FALLBACK = "agentos", "nobody"


class RunAs(TypedDict, total=False):
    """The arguments of `subprocess.Popen` that give up root."""

    user: int
    group: int
    extra_groups: list[int]


class NoUnprivilegedUserError(Exception):
    """The node runs as root and finds no account to run PostgreSQL as."""


@dataclass(frozen=True)
class ServiceUser:
    """An account of this machine without privileges."""

    name: str
    uid: int
    gid: int

    @property
    def run_as(self) -> RunAs:
        """Return what to add to a `subprocess` call."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def enters(self, directory: Path) -> bool:
        """Return whether the account may pass through the directory, as things are."""
        return self._can(["/bin/sh", "-c", 'test -x "$1"', "enters", str(directory)])

    def runs(self, program: Path) -> bool:
        """Return whether the account may run the program, as things are."""
        return self._can([str(program), "--version"])

    def _can(self, command: list[str]) -> bool:
        try:
            done = subprocess.run(
                command, check=False, cwd="/", capture_output=True, timeout=10, **self.run_as
            )
        except PermissionError:
            return False
        return done.returncode == 0


def service_user() -> ServiceUser | None:
    """Return the account for the servers; None when the node is not root and needs none.

    Makes the system account `agentos` when it is missing and the machine can, else takes
    `nobody`. Raises `NoUnprivilegedUserError`.
    """
    if os.name == "nt" or os.geteuid() != 0:
        return None
    found = _lookup(NAME) or _create() or _lookup(FALLBACK)
    if found is None:
        raise NoUnprivilegedUserError(
            f"as root, PostgreSQL needs an account without privileges; make one: "
            f"useradd --system {NAME}"
        )
    return found


def _lookup(name: str) -> ServiceUser | None:
    import pwd  # noqa: PLC0415 - not on Windows

    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return ServiceUser(entry.pw_name, entry.pw_uid, entry.pw_gid) if entry.pw_uid else None


def _create() -> ServiceUser | None:
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd:
        command = [useradd, "--system", "--user-group", "--no-create-home", NAME]
        subprocess.run([*command, "--shell", "/bin/false"], check=False, capture_output=True)
    return _lookup(NAME)
