"""The programs in docs/openai-clients.md run as they stand."""

import asyncio
import os
import subprocess
import sys

from tests.docs.pages import ROOT, blocks
from tests.gateways.openai.conftest import ModelDoor

FIRST, REPEATED = blocks(ROOT / "docs" / "openai-clients.md", "python")


async def printed(models: ModelDoor, program: str) -> list[str]:
    """Return the lines that a program prints, told of the door as the page says."""
    environment = os.environ | {"OPENAI_BASE_URL": f"{models.url}/v1", "OPENAI_API_KEY": models.key}

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    done = await asyncio.to_thread(run)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def test_the_first_program(models: ModelDoor) -> None:
    assert await printed(models, FIRST) == [
        "memory/echo hello",
        "allowed",
        "one two three (8 tokens)",
        "hello again",
    ]


async def test_the_repeated_call(models: ModelDoor) -> None:
    assert await printed(models, REPEATED) == ["True"]
    assert len(models.pipeline.asked) == 1
