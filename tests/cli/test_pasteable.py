"""Commands in messages can be pasted, and reach the node they are about."""

import os
import sys
from pathlib import Path

import pytest

from agentos.cli.options import node_settings
from agentos.cli.pasteable import pasteable
from agentos.infra.node.next_step import as_pasted

DATA = Path("/srv/my node")
WHERE = "--data-dir '/srv/my node'"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("agentos up", f"bin/agentos up {WHERE}"),
        (
            "restore it; to give up all data: agentos nuke --hard --yes-really",
            f"restore it; to give up all data: bin/agentos nuke --hard --yes-really {WHERE}",
        ),
        ("run `agentos replay rebuild`.", f"run `bin/agentos replay rebuild {WHERE}`."),
        ("T=$(agentos token --role x)", f"T=$(bin/agentos token --role x {WHERE})"),
        (
            "start anew: agentos up; or only end: agentos down\nmore",
            f"start anew: bin/agentos up {WHERE}; or only end: bin/agentos down {WHERE}\nmore",
        ),
        ("another: agentos up --data-dir PATH", "another: bin/agentos up --data-dir PATH"),
        ("useradd --system agentos", "useradd --system agentos"),
        ("agentos upset .venv/bin/agentos up", "agentos upset .venv/bin/agentos up"),
    ],
)
def test_each_command_names_its_node_and_the_program(text: str, written: str) -> None:
    assert as_pasted(text, DATA, "bin/agentos") == written


def test_the_default_of_the_directory_goes_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AGENTOS_DATA_DIR", raising=False)
    node_settings()
    assert pasteable("agentos up") == "agentos up"
    assert pasteable("agentos up", anywhere=True) == f"agentos up --data-dir {tmp_path}/.agentos"
    node_settings(Path("other"))
    assert pasteable("agentos up") == f"agentos up --data-dir {tmp_path}/other"
    monkeypatch.setenv("AGENTOS_DATA_DIR", str(tmp_path / "third"))
    node_settings()
    assert pasteable("agentos up") == f"agentos up --data-dir {tmp_path}/third"


def test_the_program_is_named_as_it_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AGENTOS_DATA_DIR", raising=False)
    node_settings()
    program = tmp_path / "bin/agentos"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", ["bin/agentos", "up"])
    monkeypatch.setenv("PATH", "/usr/bin")
    assert pasteable("agentos down") == "bin/agentos down"
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}/usr/bin")
    assert pasteable("agentos down") == "agentos down"
