"""A full disk is seen in what the broker says, and its end in the free space."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from agentos.infra.node.disk_watch import DiskWatch

Usage = namedtuple("Usage", "total used free")


def test_it_asks_for_a_restart_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [2**21]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 0, free[0]))
    log = tmp_path / "nats.log"
    log.write_text("an old line: no space left on device\n")
    watch = DiskWatch(log, tmp_path)
    assert not watch.must_restart()
    with log.open("a") as file:
        file.write("write 1.blk: no space left on device\n")
    assert not watch.must_restart()
    assert watch.full
    free[0] = 2**30
    assert watch.must_restart()
    watch.restarted()
    assert not watch.must_restart()
    log.write_text("rotated: disk quota exceeded\n")
    assert watch.must_restart()
    watch.restarted()
    free[0] = 0
    assert not watch.must_restart()
    free[0] = 2**30
    assert watch.must_restart(), "the broker could not log that nothing was left"
