"""As root PostgreSQL runs as another account, and no permission of others changes."""

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from agentos.infra import postgres_server
from agentos.infra.postgres_server import SHARED_HOME, configure_postgres, load_postgres
from agentos.infra.unprivileged import service_user

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")


@as_root
def test_a_data_directory_out_of_reach_moves_postgres_and_opens_nothing() -> None:
    closed = Path(tempfile.mkdtemp(prefix="aos-closed-"))
    data = closed / "data"
    data.mkdir(mode=0o711)
    before = os.umask(0o077)  # the supervisor's
    server = configure_postgres(data)
    os.umask(before)
    try:
        assert server.home.parent == SHARED_HOME
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.home.stat().st_mode) == 0o700
        assert server.programs.is_relative_to(server.home)
        assert load_postgres(data) == server
        process = subprocess.Popen(
            server.argv, cwd=server.home, stderr=subprocess.DEVNULL, **server.run_as
        )
        assert postgres_server.wait_until_ready(server, 10)
        assert Path(f"/proc/{process.pid}").stat().st_uid != 0
        process.terminate()
        process.wait(10)
    finally:
        shutil.rmtree(server.home)
        shutil.rmtree(closed)


@as_root
def test_the_account_exists_and_has_no_power() -> None:
    user = service_user()
    assert user
    assert user.uid != 0
    assert not user.enters(Path("/root")) or Path("/root").stat().st_mode & stat.S_IXOTH
    assert user.enters(Path("/"))


def test_who_is_not_root_needs_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert service_user() is None
