"""A capsule's text: runs and the agents' versions behind them, one JSON object a line.

A line that begins with `{"run":` heads a run; its events follow as they stand in the log (or
redacted), an empty line between two commits. `{"agent":` lines come before the first run that
needs them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json, to_json

from agentos.domain.agent.agent import Definition
from agentos.domain.log import Recorded
from agentos.domain.replay.redaction import Redact, redact_definition, redact_line
from agentos.domain.replay.replay import LinesDigest, lines_digest
from agentos.domain.subjects import StreamRef

RUN, AGENT, EVENT = b'{"run":', b'{"agent":', b'{"event":'
Versions = Mapping[str, Definition]
M = TypeVar("M", bound=BaseModel)


class CapsuleError(Exception):
    """The file is no capsule, was damaged or changed, or its signature does not hold."""


class AgentVersion(BaseModel):
    """One version of an agent that runs in the capsule were made by."""

    model_config = ConfigDict(frozen=True)

    tenant_id: str
    agent_id: str
    definition: Definition


class RunHead(BaseModel):
    """What stands before a run's lines.

    `digest` is that of the lines as they follow, `original_digest` that of the log's, and
    `audited_digest` what the audit record of the run's end held, where it was looked up.
    """

    model_config = ConfigDict(frozen=True)

    tenant_id: str
    run_id: str
    agent_id: str
    events: int
    digest: str
    original_digest: str
    audited_digest: str | None = None
    redacted_events: int = 0


@dataclass(frozen=True, slots=True)
class CapsuleRun:
    """A run out of a capsule."""

    head: RunHead
    records: Sequence[Recorded]
    versions: Versions


def agent_line(tenant_id: str, agent_id: str, definition: Definition, redact: Redact) -> bytes:
    """Return the line of an agent's version."""
    shown = redact_definition(definition, redact)
    version = AgentVersion(tenant_id=tenant_id, agent_id=agent_id, definition=shown)
    return to_json({"agent": version.model_dump(mode="json")})


def run_lines(
    records: Sequence[Recorded], agent_id: str, redact: Redact | None, audited: str | None = None
) -> tuple[RunHead, bytes]:
    """Return a run's head and its block: all that the capsule holds of it."""
    lines = [record.lines() for record in records if record.lines()]
    original = lines_digest(line for record in records for line in record.stored_lines())
    digest, bodies, changed = LinesDigest(), [], 0
    for commit in lines:
        shown = commit if redact is None else [redact_line(line, redact) for line in commit]
        changed += sum(new is not old for new, old in zip(shown, commit, strict=True))
        for line in shown:
            digest.update(line)
        bodies.append(b"\n".join(shown))
    ref = records[0].ref
    head = RunHead(
        tenant_id=ref.tenant_id,
        run_id=ref.aggregate_id,
        agent_id=agent_id,
        events=digest.lines,
        digest=digest.hexdigest(),
        original_digest=original,
        audited_digest=audited,
        redacted_events=changed,
    )
    block = to_json({"run": head.model_dump()}) + b"\n" + b"\n\n".join(bodies)
    return head, block


def read_runs(lines: Iterable[bytes]) -> Iterator[CapsuleRun]:
    """Yield the runs of a capsule's text. Raises `CapsuleError` for anything else."""
    versions: dict[tuple[str, str], dict[str, Definition]] = {}
    head: RunHead | None = None
    commits: list[list[bytes]] = [[]]
    for line in lines:
        if line.startswith((RUN, AGENT)):
            if head is not None:
                yield _run(head, commits, versions)
            head, commits = None, [[]]
        if line.startswith(RUN):
            head = _parsed(line, "run", RunHead)
        elif line.startswith(AGENT):
            _learn(versions, line)
        elif not line:
            commits.append([])
        elif head is None or not line.startswith(EVENT):
            raise CapsuleError("a line of the capsule is neither a head nor an event")
        else:
            commits[-1].append(line)
    if head is not None:
        yield _run(head, commits, versions)


def _learn(versions: dict[tuple[str, str], dict[str, Definition]], line: bytes) -> None:
    agent = _parsed(line, "agent", AgentVersion)
    known = versions.setdefault((agent.tenant_id, agent.agent_id), {})
    known[agent.definition.version] = agent.definition


def _parsed(line: bytes, name: str, kind: type[M]) -> M:
    try:
        return kind.model_validate(from_json(line)[name])
    except (ValidationError, ValueError, KeyError, TypeError) as exc:
        raise CapsuleError(f"a head of the capsule cannot be read: {exc}") from exc


def _run(
    head: RunHead,
    commits: Sequence[Sequence[bytes]],
    versions: Mapping[tuple[str, str], Versions],
) -> CapsuleRun:
    ref = StreamRef(head.tenant_id, "run", head.run_id)
    records: list[Recorded] = []
    sequence = 1
    for lines in commits:
        if lines:
            body = b"\n".join(lines)
            types = tuple("" for _ in lines)
            position = len(records) + 1
            records.append(Recorded(ref, "", sequence, types, body, position=position))
            sequence += len(lines)
    if lines_digest(line for lines in commits for line in lines) != head.digest:
        raise CapsuleError(f"the lines of {head.run_id} do not have the digest of its head")
    return CapsuleRun(head, records, versions.get((head.tenant_id, head.agent_id), {}))
