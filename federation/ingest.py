"""`events:ingest`: what a peer pushes, sorted event by event; durable when it is answered."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from agentos.domain.auth import AuthContext
from agentos.domain.errors import (
    AgentOSError,
    ForbiddenError,
    InvalidJsonError,
    InvalidRequestError,
)
from agentos.domain.federation.peer import PeerEntry, StackId
from agentos.domain.federation.remote import checked_line
from agentos.domain.ids import is_named_id
from agentos.federation.book import PeerBook
from agentos.federation.parts import Ports
from agentos.federation.trust import PeerGate
from agentos.gateways.http.bodies import BodyAuth, narrowed, read_raw

PATH: Final = "/v1/federation/events:ingest"
MAX_EVENTS: Final = 10_000
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
COMMAND_BYTES: Final = 1024 * 1024
COMMAND_LINES: Final = 5_000
AT_ONCE: Final = 8
RIGHT: Final = "events:ingest"


class Dedupe(BaseModel):
    """How repeats are told: by `event_id`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    mode: str = Field(default="event_id", pattern="^event_id$")


class IngestPart(BaseModel):
    """Who pushes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    source_stack_id: StackId
    dedupe: Dedupe | None = None


class PeerPart(BaseModel):
    """The peer that pushes, as it describes itself; only its id counts."""

    model_config = ConfigDict(frozen=True, extra="allow")

    stack_id: StackId


class IngestBody(BaseModel):
    """A batch, in any of the forms: `ingest`, `peer`, or `peer_id` says where it comes from."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ingest: IngestPart | None = None
    peer: PeerPart | None = None
    peer_id: StackId | None = None
    auth: BodyAuth | None = None
    events: list[Any] = Field(max_length=MAX_EVENTS)

    @property
    def source(self) -> str | None:
        """The stack that the events are said to come from, `None` without one."""
        if self.ingest is not None:
            return self.ingest.source_stack_id
        return self.peer.stack_id if self.peer is not None else self.peer_id


@dataclass(slots=True)
class Batch:
    """The lines of a batch by their runs, and how many were turned away."""

    by_run: dict[str | None, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    rejected: int = 0


async def read_batch(request: Request) -> IngestBody:
    """Return the body; `InvalidJsonError`, `InvalidRequestError`."""
    try:
        parsed = orjson.loads(await read_raw(request))
    except orjson.JSONDecodeError as exc:
        raise InvalidJsonError(str(exc)) from exc
    try:
        body = IngestBody.model_validate(parsed)
    except ValidationError as exc:
        found = exc.errors(include_url=False, include_context=False, include_input=False)
        errors = [{"loc": ["body", *e["loc"]], "msg": e["msg"]} for e in found[:20]]
        raise InvalidRequestError("the body does not fit", errors=errors) from exc
    if body.source is None:
        errors = [{"loc": ["body", "ingest", "source_stack_id"], "msg": "Field required"}]
        raise InvalidRequestError("the body does not say where it comes from", errors=errors)
    return body


def require_peer(request: Request, auth: AuthContext) -> None:
    """Raise `ForbiddenError` unless the caller is a peer: `events:read` is for dev headers."""
    by_credential = "authorization" in request.headers or "x-api-key" in request.headers
    if by_credential and "federation:peer" not in auth.scopes:
        raise ForbiddenError(
            "the scope federation:peer is missing", required_scope="federation:peer"
        )


async def ingest(
    ports: Ports,
    book: PeerBook,
    gate: PeerGate,
    auth: AuthContext,
    body: IngestBody,
    traceparent: str,
) -> tuple[int, int]:
    """Take in a batch; returns how many events were accepted and rejected."""
    auth = narrowed(auth, body.auth)
    source, count = body.source or "", len(body.events)
    known = book.get(source)
    entry = known.entry if known is not None else None
    if not _may_push(ports, auth, source, entry):
        return 0, count
    if entry is not None:
        gate.spend(source, "events", entry.limits.events_per_minute, count)
    batch = _sorted(auth.tenant_id, body.events)
    at_once = asyncio.Semaphore(AT_ONCE)

    async def send(run_id: str | None, lines: list[bytes]) -> dict[str, Any]:
        async with at_once:
            return await ports.bus.send("events.ingest", auth, _command(lines, run_id), timeout=30)

    def _command(lines: list[bytes], run_id: str | None) -> dict[str, Any]:
        return {
            "traceparent": traceparent,
            "source_stack_id": source,
            "run_id": run_id,
            "lines": [line.decode() for line in lines],
        }

    async def send_run(run_id: str | None, lines: list[bytes]) -> tuple[int, int]:
        accepted = rejected = 0
        for piece in _pieces(lines):  # one after the other: they are one stream
            answer = await send(run_id, piece)
            accepted += answer["accepted"]
            rejected += answer["rejected"]
        return accepted, rejected

    answers = await asyncio.gather(*(send_run(run, lines) for run, lines in batch.by_run.items()))
    return sum(a for a, _ in answers), batch.rejected + sum(r for _, r in answers)


def _may_push(ports: Ports, auth: AuthContext, source: str, entry: PeerEntry | None) -> bool:
    """Whether a caller may push events of that stack: its own, by right, of a tenant it serves.

    In dev a caller without a stack, or a stack that is no peer, is taken.
    """
    if source == ports.local.info.stack_id:
        return False
    if auth.stack_id is not None and auth.stack_id != source:
        return False
    if auth.stack_id is None and ports.peering.is_prod:
        return False
    if entry is None:
        return not ports.peering.is_prod
    return RIGHT in entry.rights and entry.serves(auth.tenant_id)


def _sorted(tenant_id: str, events: list[Any]) -> Batch:
    batch = Batch()
    ids: set[str] = set()
    for event in events:
        inner = event.get("event", event) if isinstance(event, dict) else None
        line = _line(tenant_id, inner)
        if line is None or inner is None or inner["event_id"] in ids:
            batch.rejected += 1
            continue
        ids.add(inner["event_id"])
        batch.by_run[inner.get("run_id")].append(line)
    return batch


def _line(tenant_id: str, inner: Any) -> bytes | None:
    """Return an event as a line of its own, `None` for what is no event of the tenant."""
    if not isinstance(inner, dict):
        return None
    run_id = inner.get("run_id")
    if run_id is not None and not (isinstance(run_id, str) and is_named_id(run_id)):
        return None
    try:
        line = orjson.dumps({"event": inner})
        checked_line(line, tenant_id, run_id)
    except (TypeError, ValueError, AgentOSError):
        return None
    return line


def _pieces(lines: list[bytes]) -> list[list[bytes]]:
    """Cut lines into commands."""
    found: list[list[bytes]] = []
    size = COMMAND_BYTES
    for line in lines:
        if size + len(line) > COMMAND_BYTES or len(found[-1]) >= COMMAND_LINES:
            found.append([])
            size = 0
        found[-1].append(line)
        size += len(line)
    return found
