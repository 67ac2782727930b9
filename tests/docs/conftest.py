"""A node for the pages whose examples are run."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.journeys.real_node import RealNode, real_node

Run = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def docs_node() -> Iterator[RealNode]:
    """A node of its own, on free ports, for the tests of this worker."""
    with real_node() as node:
        yield node


@pytest.fixture
def run_bash(docs_node: RealNode) -> Run:
    """Run a script with bash as a reader would at the root of the repository."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(script: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env=docs_node.environment() | {"PATH": path},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run
