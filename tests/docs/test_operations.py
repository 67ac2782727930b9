"""The settings and commands on the pages are the ones that there are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from agentos.cli.main import app
from agentos.cli.replay import app as replay
from agentos.infra.settings import variables
from tests.docs.pages import PAGES, ROOT, blocks, code_spans

OPERATIONS = ROOT / "docs" / "operations.md"
ROW = re.compile(r"^\| `(AGENTOS_\w+)` \| ([^|]*) \|", re.MULTILINE)


def test_the_table_has_every_setting() -> None:
    assert [name for name, _ in ROW.findall(OPERATIONS.read_text())] == list(variables())


def test_the_defaults_are_those_of_the_code() -> None:
    for name, shown in ROW.findall(OPERATIONS.read_text()):
        default = variables()[name].metadata["default"]
        if default:
            assert shown.strip() == f"`{default}`", name


def cited_commands() -> set[str]:
    """Return every `agentos …` of the pages, up to its first option or argument in doubt."""
    cited = [span for page in PAGES for span in code_spans(page)]
    for page in PAGES:
        for language in ("console", "bash"):
            cited += [line for block in blocks(page, language) for line in block.splitlines()]
    found = {
        m[1] for text in cited for m in re.finditer(r"(?<![\w/.=:-])agentos ((?:[a-z]+ ?)+)", text)
    }
    return {text.strip() for text in found}


def known_commands() -> dict[str, object]:
    """Return the commands by their words: `up`, `replay rebuild` …"""
    parts = vars(get_command(replay)).get("commands", {})
    known: dict[str, object] = dict(vars(get_command(app)).get("commands", {}))
    return known | {f"replay {name}": command for name, command in parts.items()}


def test_every_cited_command_exists() -> None:
    known = known_commands()
    cited = cited_commands()
    assert len(cited) > 8
    for text in cited:
        words = text.split()
        assert words[0] in known, text
        has_parts = any(name.startswith(f"{words[0]} ") for name in known)
        assert not has_parts or len(words) == 1 or " ".join(words[:2]) in known, text


@pytest.mark.parametrize("name", sorted(known_commands()))
def test_every_command_is_on_the_page(name: str) -> None:
    assert f"agentos {name}" in OPERATIONS.read_text()


def test_help_works() -> None:
    program = Path(sys.executable).with_name("agentos")
    for words in ([], ["up"], ["replay", "rebuild"]):
        done = subprocess.run(
            [str(program), *words, "--help"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0
        assert done.stdout
