"""The programs in docs/openai-clients.md run as they stand, against a real node."""

import os
import subprocess
import sys

from tests.docs.pages import ROOT, blocks
from tests.journeys.real_node import RealNode

FIRST, REPEATED = blocks(ROOT / "docs" / "openai-clients.md", "python")


def printed(node: RealNode, program: str) -> list[str]:
    """Return the lines that a program prints, told of the node as the page says."""
    told = {
        "OPENAI_BASE_URL": f"{node.door('model_policy')}/v1",
        "OPENAI_API_KEY": node.token("tnt_demo", "tenant_user"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | told,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_first_program(docs_node: RealNode) -> None:
    assert printed(docs_node, FIRST) == [
        "builtin/echo hello",
        "allowed",
        "one two three (8 tokens)",
        "hello again",
    ]


def test_the_repeated_call(docs_node: RealNode) -> None:
    assert printed(docs_node, REPEATED) == ["True"]
