"""What the pages point at is there: links, paths, and the names in the code."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import NAMES, PAGES, ROOT, code_spans, prose

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TOP = "domain handlers projections gateways federation infra cli docs tests .ci .ns".split()
CITED = re.compile(rf"^(?:{'|'.join(map(re.escape, TOP))})/[\w./~-]*(?:::[\w.]+)?$")
FORBIDDEN = re.compile(r"/(?:work|home|root|tmp/\w|opt)/|pypi\.|ghcr\.|docker\.io|\bTODO\b")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_internal_links_resolve(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_file(), f"{target} is no file"
        assert not anchor or anchor in anchors(found), f"{target} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_cited_paths_exist(page: Path) -> None:
    for span in code_spans(page):
        if CITED.match(span):
            path, _, name = span.partition("::")
            assert (ROOT / path).exists(), f"{path} is not there"
            assert not name or name in definitions(ROOT / path), f"{span} is not there"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_page_names_a_machine(page: Path) -> None:
    assert not FORBIDDEN.search(page.read_text())


def test_the_index_has_every_decision() -> None:
    folder = ROOT / "docs" / "decisions"
    linked = set(LINK.findall((folder / "README.md").read_text()))
    assert linked == {page.name for page in folder.glob("[0-9]*.md")}


@cache
def definitions(path: Path) -> set[str]:
    """Return the functions, classes and methods of a module, the last as `Class.method`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {f"{node.name}.{method.name}" for method in inner}
    return found
