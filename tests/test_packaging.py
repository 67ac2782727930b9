"""The package: every folder with code is in it, under `agentos` and nowhere else."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("domain", "handlers", "projections", "gateways", "federation", "cli", "infra")


def test_every_package_is_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    there = {
        "agentos." + ".".join(path.parent.relative_to(ROOT).parts)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert listed == there
    loose = {
        str(path.parent)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert loose == set()


def test_each_folder_is_typed_and_seen_by_type_checkers() -> None:
    for folder in FOLDERS:
        assert (ROOT / folder / "py.typed").exists()
        assert (ROOT / ".ns" / "agentos" / folder).resolve() == ROOT / folder


def test_the_top_level_is_as_agreed() -> None:
    agreed = {*FOLDERS, "docs", "tests", "pyproject.toml", "README.md", "Makefile", "LICENSE"}
    made = {"reports", "build", "dist", "agentos.egg-info"}
    there = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert there - made == agreed
