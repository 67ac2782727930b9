"""The pages of documentation as the tests read them."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES: Final = [str(page.relative_to(ROOT)) for page in PAGES]

_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE: Final = re.compile(r"`([^`\n]+)`")


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of one language, in order."""
    return [body for name, body in _BLOCK.findall(page.read_text()) if name == language]


def prose(page: Path) -> str:
    """Return the page without its code blocks."""
    return _BLOCK.sub("", page.read_text())


def code_spans(page: Path) -> list[str]:
    """Return what stands between single backticks outside of code blocks."""
    return _CODE.findall(prose(page))
