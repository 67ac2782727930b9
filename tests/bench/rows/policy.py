"""The policy's own time: a text of 1 KB looked through, and a streamed one piece by piece."""

import time
from collections.abc import Callable
from statistics import median

from agentos.domain.policy.builtin import default_policy
from agentos.domain.policy.facts import Facts
from tests.bench.plan import Plan
from tests.bench.stats import AT_MOST, Figure, Goal

PROSE = (
    "The harbour master writes that in 2026 the Alma had 12 berths; the token of the gate was "
    "kept, and its key too. She needs water on Tuesday: the crane comes on Wednesday morning. "
) * 7
PERSONAL = (
    "Call +49 30 1234567 or write to ann.berg@example.com; card 4111 1111 1111 1111, account "
    "DE89 3704 0044 0532 0130 00, password: hunter22x! and sk-proj-abcdefghij1234567890. "
)
SIZE = 1024
CHECKS = 500
OUTPUT = Facts(direction="output")


async def policy(plan: Plan) -> list[Figure]:
    """Measure the built-in policy on texts in memory; nothing else runs."""
    plain, personal = PROSE[:SIZE], (PERSONAL + PROSE)[:SIZE]
    made = [
        ("1 KB of prose checked, p50", lambda: _checks(plain)),
        ("1 KB with six findings checked, p50", lambda: _checks(personal)),
        ("1 KB of prose streamed in pieces of 5 characters, one piece, p50", _pieces),
    ]
    return [_figure(plan, name, measure) for name, measure in made]


def _figure(plan: Plan, name: str, measure: Callable[[], list[float]]) -> Figure:
    measure()  # the first one compiles
    values = [median(measure()) * 1000 for _ in range(plan.repeats)]
    goal = None if "streamed" in name else Goal(AT_MOST, 0.3)
    return Figure("policy", name, "ms", values, goal)


def _checks(text: str) -> list[float]:
    """Return the seconds of each check by `pol_default`."""
    checked, taken = default_policy(), []
    for _ in range(CHECKS):
        began = time.perf_counter()
        checked.check([("messages[0].content", text)], Facts())
        taken.append(time.perf_counter() - began)
    return taken


def _pieces() -> list[float]:
    """Return the seconds of each piece."""
    taken = []
    guard = default_policy().stream(OUTPUT)
    for at in range(0, SIZE, 5):
        began = time.perf_counter()
        guard.feed(PROSE[at : at + 5])
        taken.append(time.perf_counter() - began)
    return taken
