"""Walks through a recorded run in the terminal, forwards and backwards."""

import sys
from collections.abc import Iterator

import typer
from rich.console import Console

from agentos.cli.replay_keys import keys_of, raw_keys
from agentos.cli.replay_page import page
from agentos.cli.replay_sources import FAILED, RecordedRun, end, print_json
from agentos.domain.aggregate import FoldError
from agentos.domain.replay.timeline import Timeline


def walk(found: RecordedRun, at: int | None, *, as_json: bool) -> None:
    """Show the run at one event, or walk as the keys say: n, p, g N, q, or the arrows."""
    try:
        timeline = Timeline(found.ref, found.records)
        timeline.at(len(timeline))
    except (FoldError, KeyError, TypeError, ValueError) as exc:
        end(f"the log cannot be walked through: {exc}; replay it without --step", FAILED)
    if at is not None:
        if at > len(timeline):
            end(f"the run has events 1 to {len(timeline)}", FAILED)
        _print(found, timeline, at, as_json=as_json)
    elif sys.stdin.isatty() and sys.stdout.isatty() and not as_json:
        _live(found, timeline)
    else:
        for place in places(len(timeline), keys_of(sys.stdin)):
            _print(found, timeline, place, as_json=as_json)


def places(length: int, keys: Iterator[str | int]) -> Iterator[int]:
    """Yield where the keys lead, from the first event on: `next`, `back`, `last`, a number."""
    place = 1
    yield place
    for key in keys:
        if key == "quit":
            return
        if isinstance(key, int):
            place = key
        else:
            place = {"next": place + 1, "back": place - 1, "last": length}.get(key, place)
        place = min(max(place, 1), length)
        yield place


def _print(found: RecordedRun, timeline: Timeline, at: int, *, as_json: bool) -> None:
    if as_json:
        print_json(timeline.at(at).to_json())
        return
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(page(found, timeline, at, height=0))


def _live(found: RecordedRun, timeline: Timeline) -> None:
    console = Console()
    with raw_keys() as keys, console.screen(hide_cursor=True) as screen:
        for at in places(len(timeline), keys):
            screen.update(page(found, timeline, at, height=console.height))
    typer.echo(f"left at event {at} of {len(timeline)}")
