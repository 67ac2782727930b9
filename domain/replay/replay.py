"""A recorded run, decided again commit by commit and compared byte by byte.

No port is here, and none can be handed in: time, ids, models and tools are those of the log.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import ValidationError

from agentos.domain.agent.agent import Definition
from agentos.domain.aggregate import FoldError, Moment, read_event
from agentos.domain.envelope import Event, to_line
from agentos.domain.errors import AgentOSError
from agentos.domain.log import Recorded
from agentos.domain.replay.difference import Difference, between, missing, surplus
from agentos.domain.replay.inputs import moment_of, say
from agentos.domain.replay.offers import plan_of_attempt, plan_of_commit
from agentos.domain.run.advance import Plan, advance
from agentos.domain.run.events import RunCreated, RunStarted
from agentos.domain.run.run import Run
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339

UNREADABLE = (FoldError, ValidationError, ValueError, KeyError, TypeError, AttributeError)
OLD_TOOLS = (
    "the log does not say which tools each attempt had (it was written by an earlier version): "
    "they were taken from the calls that it made"
)
BAD_DIGEST = "the log's lines do not have the digest that the audit record of their end holds"


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay came to. `digest` is sha256 over the log's lines, joined by newlines."""

    run_id: str
    events: int
    digest: str
    recorded_digest: str | None
    first_difference: Difference | None
    notes: tuple[str, ...] = ()
    erased: bool = False

    @property
    def equal(self) -> bool:
        """Whether every line was decided again as it stands, and is what was audited.

        Never of a run whose content is erased: there only its digest can be compared.
        """
        return self.first_difference is None and not self.erased

    def to_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        different = self.first_difference
        return {
            "run_id": self.run_id,
            "events": self.events,
            "digest": self.digest,
            "recorded_digest": self.recorded_digest,
            "equal": self.equal,
            "first_difference": different.to_json() if different else None,
            "notes": list(self.notes),
            "erased": self.erased,
        }


class Replay:
    """One run's replay. `feed` takes its commits in order, in batches of any size.

    Of commits that were sealed, the opened lines are decided again and the digest is made over
    those in the log; from the first that cannot be opened on there is only the digest.

    `definition` says what a version of the run's agent is. `trusted` commits at the front are
    folded and not decided again: the replay begins at a snapshot behind them.
    """

    def __init__(
        self, ref: StreamRef, definition: Callable[[str], Definition], *, trusted: int = 0
    ) -> None:
        self.run = Run(ref)
        self.difference: Difference | None = None
        self._definition_of = definition
        self._trusted = trusted
        self._digest = LinesDigest()
        self._plan: Plan | None = None
        self._notes: list[str] = []
        self._erased = False

    def feed(self, records: Iterable[Recorded]) -> Self:
        """Decide the commits again; behind the first difference they are only counted."""
        for record in records:
            lines = record.lines()
            for line in record.stored_lines():
                self._digest.update(line)
            self._erased = self._erased or not record.readable
            if self.difference is None and lines and not self._erased:
                self._take(lines)
        return self

    def result(self, recorded_digest: str | None = None) -> Replayed:
        """Return what it came to; a recorded digest that the lines do not have is a difference."""
        digest, different = self._digest.hexdigest(), self.difference
        if different is None and recorded_digest not in (None, digest):
            different = Difference(0, "", BAD_DIGEST, None, recorded_digest, digest)
        return Replayed(
            self.run.ref.aggregate_id,
            self._digest.lines,
            digest,
            recorded_digest,
            different,
            tuple(self._notes),
            self._erased,
        )

    def _take(self, lines: Sequence[bytes]) -> None:
        at = self.run.sequence + 1
        try:
            events = [read_event(line, Run.PAYLOADS) for line in lines]
        except UNREADABLE as exc:
            self.difference = Difference(at, "", f"a line of this commit cannot be read: {exc}")
            return
        if self.run.status is None and not isinstance(events[0].payload, RunCreated):
            self.difference = Difference(at, events[0].type, "a run begins with run.created")
        elif self._trusted > 0:
            self._trusted -= 1
            self._trust(events)
        else:
            self._decide(events, lines)

    def _trust(self, events: Sequence[Event]) -> None:
        try:
            for event in events:
                self.run.evolve(event)
                if isinstance(event.payload, RunStarted):
                    self._begin(event.payload)
        except FoldError as exc:
            self.difference = Difference(events[0].sequence, events[0].type, str(exc))

    def _decide(self, events: Sequence[Event], lines: Sequence[bytes]) -> None:
        why = ""
        before = self.run.sequence
        try:
            self._stage(events, moment_of(events))
        except (AgentOSError, KeyError, TypeError, ValueError) as exc:
            why = f"this cannot have been decided: {exc}"
        made = self.run.collect()
        self.difference = _compare(before, events, lines, made, why)

    def _stage(self, events: Sequence[Event], at: Moment) -> None:
        run = self.run

        def start(said: RunStarted) -> None:
            self._begin(said)
            tools = None if said.tools is None or self._plan is None else self._plan.offered()
            run.start(said.worker_id, at, tools)

        if say(run, events, at, start) and not run.is_final:
            definition = self._definition_of(run.created.agent_version)
            plan = self._plan or plan_of_commit(run, definition, events)
            advance(run, plan, at)

    def _begin(self, said: RunStarted) -> None:
        """Take the tools of an attempt from its first event."""
        run = self.run
        if said.tools is None:
            self._plan = None
            if OLD_TOOLS not in self._notes:
                self._notes.append(OLD_TOOLS)
        else:
            definition = self._definition_of(run.created.agent_version)
            self._plan = plan_of_attempt(run, definition, said.tools)


class LinesDigest:
    """sha256 over lines joined by newlines: what the audit record of a run's end holds."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self.lines = 0

    def update(self, line: bytes) -> None:
        """Take in the next line."""
        if self.lines:
            self._sha.update(b"\n")
        self._sha.update(line)
        self.lines += 1

    def hexdigest(self) -> str:
        """Return the digest so far."""
        return self._sha.hexdigest()


def lines_digest(lines: Iterable[bytes]) -> str:
    """Return the digest of a run's lines."""
    digest = LinesDigest()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def _compare(
    before: int, events: Sequence[Event], lines: Sequence[bytes], made: Sequence[Event], why: str
) -> Difference | None:
    """Return the first difference of a commit: `made` is what was decided, `why` it ended."""
    for at, (event, line) in enumerate(zip(made, lines, strict=False)):
        again = to_line(event, rfc3339(event.time))
        if again != line:
            return between(before + at + 1, events[at].type, line, again)
    at = min(len(made), len(lines))
    if why:
        kind = events[at].type if at < len(events) else ""
        return Difference(before + at + 1, kind, why)
    if len(made) > len(lines):
        event = made[at]
        return missing(event.sequence, event.type, to_line(event, rfc3339(event.time)))
    if len(lines) > len(made):
        return surplus(before + at + 1, events[at].type, lines[at])
    return None
