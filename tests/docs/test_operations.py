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
    top = vars(get_command(app)).get("commands", {})
    groups = dict(top) | {"replay": get_command(replay)}  # which is loaded when it is asked for
    known: dict[str, object] = dict(top)
    for group, command in groups.items():
        parts = vars(command).get("commands", {})
        known |= {f"{group} {name}": part for name, part in parts.items()}
    return known


def test_every_cited_command_exists() -> None:
    known = known_commands()
    cited = cited_commands()
    assert len(cited) > 8
    for text in cited:
        words = text.split()
        assert words[0] in known, text
        has_parts = any(name.startswith(f"{words[0]} ") for name in known)
        assert not has_parts or len(words) == 1 or " ".join(words[:2]) in known, text


def test_every_cited_make_target_exists() -> None:
    make_targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    cited = {span[5:] for page in PAGES for span in code_spans(page) if span.startswith("make ")}
    cited |= {
        line.split()[2]
        for page in PAGES
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ make ")
    }
    assert {"up", "test", "check"} <= cited <= make_targets


@pytest.mark.parametrize("name", sorted(n for n in known_commands() if " " not in n))
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
