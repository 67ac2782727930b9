"""The guide's commands and programs work, in order, as they stand."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks
from tests.journeys.real_node import RealNode

GUIDE = ROOT / "docs" / "integrators.md"
PROGRAMS = blocks(GUIDE, "python")


def test_the_commands_run(
    run_bash: Callable[[str], "subprocess.CompletedProcess[str]"],
) -> None:
    done = run_bash("\n".join(blocks(GUIDE, "bash")))
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in ('"text":"42"', "event: agentos.delta", '"status":"deprecated"'):
        assert expected in done.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=["stdlib", "aiohttp"])
def test_the_programs_run(docs_node: RealNode, program: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=docs_node.environment() | {"PATH": path},
        cwd=docs_node.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "agentos.run.created" in done.stdout.splitlines()[0]
    assert "agentos.run.completed" in done.stdout
