"""Answers on a terminal: as a table, as lines, or as the JSON that they came as."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import typer

WIDE: Final = 1000


def printable(content: object) -> str:
    """Return a text without what would steer a terminal: ids may be anybody's choice."""
    return "".join(char if char.isprintable() else "\ufffd" for char in str(content))


def show_json(content: Mapping[str, Any]) -> None:
    """Print an answer as it is."""
    typer.echo(json.dumps(content, indent=1, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under their columns; what has no value is a dash."""
    from rich.console import Console  # noqa: PLC0415 - only when it is shown
    from rich.markup import escape  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*("-" if cell in (None, "") else escape(printable(cell)) for cell in row))
    # Ids are for copying: no column is cut, however narrow the terminal is.
    Console(width=WIDE).print(table, soft_wrap=True)


def show_lines(content: Mapping[str, Any]) -> None:
    """Print an object, a line a value, objects in it as dotted names."""
    flat = list(_flat(content))
    width = max((len(name) for name, _ in flat), default=0)
    for name, value in flat:
        typer.echo(f"{name:<{width}}  {value}")


def _flat(content: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            yield f"{above}{name}", "-" if shown in (None, "") else shown
