"""A replay reaches nothing: not by its imports, not by its process, and whatever the process is."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentos import domain
from tests.domain.replay.recorder import kinds_of_runs

KINDS = sorted(kinds_of_runs())
PURE = {"abc", "collections", "copy", "dataclasses", "functools", "hashlib", "itertools", "typing"}
SCRIPT = """
import sys

REACHING = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "open")

import hashlib, json, zoneinfo
from agentos.domain.replay.replay import Replay
from tests.domain.replay.recorder import DEFINITION, kinds_of_runs

runs = {kind: made for kind, made in kinds_of_runs().items()}

def refuse(event, args):
    if event.startswith(REACHING):
        raise PermissionError(f"a replay reached out: {event} {args}")

sys.addaudithook(refuse)
if sys.argv[1:] == ["try"]:
    import socket
    socket.socket()
found = {}
for kind, made in runs.items():
    size, trusted = int(sys.argv[1]), int(sys.argv[2])
    replay = Replay(made.run.ref, lambda _: DEFINITION, trusted=trusted)
    for at in range(0, len(made.records), size):
        replay.feed(made.records[at : at + size])
    found[kind] = [replay.result().digest, replay.result().equal]
print(json.dumps(found))
"""


def run(*args: str, seed: str = "0") -> "subprocess.CompletedProcess[str]":
    """Replay every kind of run in a process of its own, in which nothing outside can be reached."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *args],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_process_of_these_tests_does_forbid_reaching_out() -> None:
    tried = run("try")
    assert tried.returncode == 1
    assert "a replay reached out: socket" in tried.stderr


@pytest.mark.parametrize(
    ("seed", "size", "trusted"), [("0", 1, 0), ("1", 3, 0), ("4242", 100, 2), ("random", 2, 1)]
)
def test_seeds_batches_and_snapshots_give_equal_digests(seed: str, size: int, trusted: int) -> None:
    done = run(str(size), str(trusted), seed=seed)
    assert done.returncode == 0, done.stderr
    from tests.domain.replay.given import replayed

    here = {kind: replayed(made.records, made.definition) for kind, made in kinds_of_runs().items()}
    assert json.loads(done.stdout) == {kind: [r.digest, True] for kind, r in here.items()}


def test_its_modules_import_nothing_that_reaches_out() -> None:
    (folder,) = {Path(path) / "replay" for path in domain.__path__}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                ours = name.startswith("agentos.domain")
                assert ours or top in PURE | {"pydantic", "pydantic_core"}, f"{path}: {name}"
            if isinstance(node, ast.Name):
                assert node.id not in ("open", "exec", "eval", "__import__"), path


def test_no_port_can_be_handed_in() -> None:
    import inspect

    from agentos.domain.replay.replay import Replay

    assert list(inspect.signature(Replay.__init__).parameters) == [
        "self", "ref", "definition", "trusted"
    ]  # fmt: skip
    assert not any(inspect.iscoroutinefunction(member) for member in vars(Replay).values())
