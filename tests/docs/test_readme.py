"""The README's example works word for word, and the page is one screen."""

import json
import subprocess
from collections.abc import Callable

from tests.docs.pages import ROOT, blocks

README = ROOT / "README.md"


def test_the_example_runs(
    run_bash: Callable[[str], "subprocess.CompletedProcess[str]"],
) -> None:
    (example,) = blocks(README, "bash")
    done = run_bash(example)
    assert done.returncode == 0, done.stderr
    lines = [line[6:] for line in done.stdout.splitlines() if line.startswith("data: ")]
    events = [json.loads(line)["event"] for line in lines]
    assert events[0]["type"] == "agentos.run.created"
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "agentos.run.completed"
    assert events[-1]["payload"]["output"]["text"] == "42"


def test_it_names_the_two_commands() -> None:
    (start,) = blocks(README, "console")
    assert [line.split("#")[0].strip() for line in start.splitlines()] == [
        "$ make up",
        "$ make test",
    ]


def test_it_is_one_screen() -> None:
    assert len(README.read_text().splitlines()) <= 70
