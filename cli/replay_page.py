"""One page of `replay run --step`: where one is, the event, and the run behind it."""

from typing import Any, Final

from pydantic_core import to_json
from rich.console import Group, RenderableType
from rich.json import JSON
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from agentos.cli.replay_sources import RecordedRun
from agentos.domain.replay.timeline import Point, Timeline

AROUND: Final = 3
OTHERS: Final = 7
HELP: Final = "n next · p back · g N go to · G last · q quit"
COLORS: Final = {"queued": "yellow", "running": "cyan", "completed": "green"}


def page(found: RecordedRun, timeline: Timeline, at: int, height: int) -> RenderableType:
    """Return what to draw for one event; `height` 0 is as long as it takes."""
    point = timeline.at(at)
    agent = point.event.get("agent_id") or ""
    title = Text.assemble(
        (found.ref.aggregate_id, "bold"),
        f"  {agent}  {found.ref.tenant_id}",
        ("   event ", "dim"),
        (f"{at}", "bold"),
        (f" of {len(timeline)}", "dim"),
    )
    body = _event(point, max(4, height - OTHERS - 2 * AROUND) if height else 0)
    side = Table.grid(expand=True, padding=(0, 1))
    side.add_column(ratio=3)
    side.add_column(ratio=2)
    side.add_row(body, Panel(_state(point), title="the run now", title_align="left"))
    parts: list[RenderableType] = [title, Rule(style="dim"), _list(timeline, at), side]
    return Group(*parts, Text(HELP, style="dim")) if height else Group(*parts)


def _list(timeline: Timeline, at: int) -> RenderableType:
    first = max(1, min(at - AROUND, len(timeline) - 2 * AROUND))
    table = Table.grid(padding=(0, 2))
    begin = timeline.events[0].time
    for event in timeline.events[first - 1 : first + 2 * AROUND]:
        here = event.sequence == at
        table.add_row(
            "▶" if here else " ",
            str(event.sequence),
            f"+{(event.time - begin) / 1000:.3f} s",
            event.type.removeprefix("agentos."),
            _about(event.payload.model_dump()),
            style="bold" if here else "dim",
        )
    return table


def _about(payload: dict[str, Any]) -> Text:
    for name in ("tool_id", "name", "model_ref", "worker_id", "by", "agent_version"):
        if payload.get(name):
            return Text(str(payload[name]))
    return Text("")


def _event(point: Point, lines: int) -> RenderableType:
    text = JSON(to_json(point.event["payload"]).decode(), indent=1).text
    if lines and len(rows := text.split("\n")) > lines:
        text = Text("\n").join([*rows[: lines - 1], Text("…", style="dim")])
    text.overflow = "fold"
    return Panel(text, title=f"{point.sequence} {point.event['type']}", title_align="left")


def _state(point: Point) -> RenderableType:
    state = point.state
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    status = str(state["status"])
    rows: list[tuple[str, str | Text]] = [
        ("status", Text(status, style=COLORS.get(status, "red"))),
        ("time", point.time),
        ("elapsed", f"{point.elapsed_ms / 1000:.3f} s (+{point.since_last_ms} ms)"),
        ("cost", f"${point.cost_usd:.6f}"),
        ("tokens", f"{point.tokens_total:,}"),
        ("steps", f"{state['steps_total']}"),
        ("calls", f"{state['model_calls_total']} model, {state['tool_calls_total']} tool"),
        ("attempt", f"{state['attempt']}"),
        ("by", Text(_who(point.changed_by["principal"]))),
    ]
    for call in state["open_calls"]:
        rows.append(("open", Text(f"{call['kind']} {call['name']}")))
    if state["cancel_requested_by"]:
        rows.append(("cancel", Text(f"asked by {state['cancel_requested_by']}")))
    if state["error"]:
        rows.append(("error", Text(f"{state['error']['code']}: {state['error']['message']}")))
    for name, value in rows:
        table.add_row(name, _printable(value))
    return table


def _printable(value: str | Text) -> Text:
    """Return what a terminal can show and not obey."""
    text = value if isinstance(value, Text) else Text(value)
    text.plain = "".join(c if c.isprintable() else "·" for c in text.plain)
    return text


def _who(principal: dict[str, Any]) -> str:
    worker = principal.get("worker_id")
    return f"{principal['principal_id']}{f' ({worker})' if worker else ''}"
