"""How a start looks on the terminal."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from agentos.cli.pasteable import pasteable


def show(console: Console, event: dict[str, Any]) -> None:
    """Print one event of a start."""
    if event["event"] == "check":
        detail = escape(str(event["detail"]))
        console.print(
            f"{event['phase']:<10}[green]✓[/] {event['name']}: {detail} [dim]{event['ms']} ms[/]",
            soft_wrap=True,
            highlight=False,
        )
    elif event["event"] == "failed":
        show_failure(console, event)


def show_failure(console: Console, event: dict[str, Any]) -> None:
    """Print the failing check, the last lines of its log, and what to do next."""
    console.print(f"[red]✗ {event['check']}[/]: {escape(event['message'])}", soft_wrap=True)
    for line in event["log"]:
        console.print(f"    [dim]{escape(line)}[/]", soft_wrap=True, highlight=False)
    step = escape(pasteable(event["next"]))
    console.print(f"next: [bold]{step}[/]", soft_wrap=True, highlight=False)
