"""Figures: several measured values each, their median and spread, a goal, floors beside them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

AT_LEAST: Final = "≥"
AT_MOST: Final = "≤"
COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    AT_LEAST: lambda value, goal: value >= goal,
    AT_MOST: lambda value, goal: value <= goal,
}


@dataclass(frozen=True)
class Goal:
    """What to reach for: `sign` is `≥` or `≤`; `words` replaces the plain number where given."""

    sign: str
    value: float
    words: str = ""

    def holds(self, value: float) -> bool:
        """Whether a median reaches it."""
        return COMPARE[self.sign](value, self.value)

    def __str__(self) -> str:
        return self.words or f"{self.sign} {show(self.value)}"


@dataclass(frozen=True)
class Floor:
    """Bare technology doing the same work in the same run. `values` are in the figure's unit."""

    name: str
    values: tuple[float, ...]


@dataclass
class Figure:
    """One line of the table."""

    row: str
    name: str
    unit: str
    values: list[float]
    goal: Goal | None = None
    floors: list[Floor] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of the measured values."""
        return median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; `None` without a goal."""
        return None if self.goal is None else self.goal.holds(self.median)

    def to_json(self) -> dict[str, Any]:
        """Return everything about it, with median and verdict."""
        return asdict(self) | {"median": self.median, "met": self.met}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 … 1) of the sorted values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(value: float) -> str:
    """Return a number with three or four digits that mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def by_process(seconds: Mapping[str, float], count: int) -> str:
    """Return the milliseconds of processor time that one of `count` took, by process."""
    shares = ", ".join(f"{name} {show(s / count * 1000)}" for name, s in seconds.items())
    return f"{show(sum(seconds.values()) / count * 1000)} ms of processor ({shares})"


def spread(values: Sequence[float]) -> str:
    """Return `min … max`, or nothing for a single value."""
    return f"{show(min(values))} … {show(max(values))}" if len(values) > 1 else ""


def markdown(figures: Sequence[Figure]) -> str:
    """Return the figures as a table, one figure a line."""
    lines = [
        "| what | median | spread | goal | met | beside it, same run | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure in figures:
        floors = "<br>".join(_floor(floor, figure.unit) for floor in figure.floors)
        ratios = "<br>".join(_ratio(figure, floor) for floor in figure.floors)
        verdict = {None: "", True: "yes", False: "**no**"}[figure.met]
        lines.append(
            f"| {figure.name} | {show(figure.median)} {figure.unit} | {spread(figure.values)} "
            f"| {figure.goal or ''} | {verdict} | {floors} | {ratios} |"
        )
    notes = [f"- {figure.name}: {figure.note}" for figure in figures if figure.note]
    return "\n".join([*lines, "", *notes]) + "\n"


def _floor(floor: Floor, unit: str) -> str:
    around = f" ({spread(floor.values)})" if len(floor.values) > 1 else ""
    return f"{floor.name}: {show(median(floor.values))} {unit}{around}"


def _ratio(figure: Figure, floor: Floor) -> str:
    below = median(floor.values)
    return f"{figure.median / below:.2f}" if below else ""
