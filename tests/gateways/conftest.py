"""A gateway process on free ports, with every port in memory."""

import asyncio
import itertools
import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import jwt
import pytest
from yarl import URL

from agentos.domain.agent.agent import Agent, Definition, agent_ref
from agentos.domain.aggregate import Moment
from agentos.domain.auth import AuthContext, PolicyContext, Principal
from agentos.domain.envelope import Origin
from agentos.domain.errors import AgentOSError
from agentos.domain.key.key import Key
from agentos.domain.log import make_commit
from agentos.domain.ports import EventLog
from agentos.domain.run.events import ErrorInfo, Output, RunCreated
from agentos.domain.run.run import Run, run_ref
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.federation.parts import Peering
from agentos.gateways.app import Gateway, Ports, run_doors
from agentos.gateways.http.identity import LocalIdentity
from agentos.gateways.http.server import listen, make_server
from agentos.gateways.http.sse import StreamLimits
from agentos.gateways.http.tenants import Accounts
from agentos.gateways.http.throttle import Throttle
from agentos.gateways.http.tokens import AUDIENCE, ISSUER, Issuer
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.memory.answers import MemoryAnswers
from agentos.infra.memory.bus import MemoryBus
from agentos.infra.memory.log import MemoryLog
from agentos.infra.memory.signals import MemorySignals
from agentos.infra.models.build import make_backend
from agentos.projections.agents.queries import AgentPage
from agentos.projections.audit_records.queries import AuditFilters, AuditPage
from agentos.projections.queries import ProjectionPosition
from agentos.projections.runs.queries import RunFilters, RunPage
from agentos.projections.runs.row import RunRow
from agentos.projections.usage_by_window.queries import UsageFilters, UsagePage, UsageRow
from tests.federation.peering import alone

SECRET = "a secret of at least thirty-two bytes"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TENANT = "tnt_a"
AGENT = "agt_echo"


def token(**claims: Any) -> str:
    """Return a signed token of a tenant user; a claim that is `None` is left out."""
    full: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": time.time() + 86_400,  # made at import, used at the end of a long day
        "tenant_id": TENANT,
        "sub": "usr_a",
        "roles": ["tenant_user"],
        **claims,
    }
    return jwt.encode({k: v for k, v in full.items() if v is not None}, SECRET, "HS256")


def bearer(**claims: Any) -> dict[str, str]:
    """Return the header with such a token."""
    return {"Authorization": f"Bearer {token(**claims)}"}


@dataclass
class MemoryReads:
    """The read side as rows that a test puts in; `down` makes it unreachable."""

    rows: dict[tuple[str, str], RunRow] = field(default_factory=dict)
    remote: dict[tuple[str, str], RunRow] = field(default_factory=dict)
    down: AgentOSError | None = None
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    model_calls: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    audit_start: tuple[int, int] = (0, 0)
    stand: list[ProjectionPosition] = field(default_factory=list)

    async def positions(self) -> list[ProjectionPosition]:
        """Return where the projections stand."""
        await self.ping()
        return list(self.stand)

    async def get_run(self, tenant_id: str, run_id: str) -> RunRow | None:
        """Return a run's row."""
        await self.ping()
        return self.rows.get((tenant_id, run_id))

    async def get_remote_run(self, tenant_id: str, run_id: str) -> RunRow | None:
        """Return the row of a run at a peer."""
        await self.ping()
        return self.remote.get((tenant_id, run_id))

    async def list_runs(
        self, tenant_id: str, filters: RunFilters, limit: int, cursor: str | None
    ) -> RunPage:
        """Remember what was asked; return all rows of the tenant."""
        await self.ping()
        self.asked.append((tenant_id, filters, limit, cursor))
        return RunPage([r for (t, _), r in self.rows.items() if t == tenant_id], "more")

    async def count_sealed(self, tenant_id: str, key_id: str) -> dict[str, int]:
        """Return that there are none: rows that a test puts in are plain."""
        await self.ping()
        return {"runs": 0, "remote_runs": 0}

    async def list_agents(self, tenant_id: str, limit: int, cursor: str | None) -> AgentPage:
        """Remember what was asked; return nothing."""
        await self.ping()
        self.asked.append((tenant_id, limit, cursor))
        return AgentPage([], None)

    async def get_usage(
        self, tenant_id: str, filters: UsageFilters, limit: int, cursor: str | None
    ) -> UsagePage:
        """Remember what was asked; return one row that counts the tenant's runs."""
        await self.ping()
        self.asked.append((tenant_id, filters, limit, cursor))
        agents = Counter(row.agent_id for (t, _), row in self.rows.items() if t == tenant_id)
        if "agent_id" not in filters.group_by:
            agents = Counter({"": agents.total()}) if agents else agents
        start, figures = filters.since, (0, 2, 1, 0, 0, 0, 30, 12, 1500)
        rows = [UsageRow(start, "", agent, "", n, *figures) for agent, n in agents.items()]
        return UsagePage(rows, "more" if rows and cursor is None else None)

    async def get_model_call(self, tenant_id: str, request_id: str) -> dict[str, Any] | None:
        """Return the call that a test put in."""
        await self.ping()
        return self.model_calls.get((tenant_id, request_id))

    async def list_audit_records(
        self, tenant_id: str, filters: AuditFilters, limit: int, cursor: str | None
    ) -> AuditPage:
        """Remember what was asked; return one record of the tenant."""
        await self.ping()
        self.asked.append((tenant_id, filters, limit, cursor))
        return AuditPage([{"tenant_id": tenant_id}], "more")

    async def find_audit_start(
        self, tenant_id: str, filters: AuditFilters, since: int | None, last: int
    ) -> tuple[int, int]:
        """Remember what was asked; return where a test said that the records begin."""
        await self.ping()
        self.asked.append((tenant_id, filters, since, last))
        return self.audit_start

    async def ping(self) -> None:
        """Raise if it is down."""
        if self.down is not None:
            raise self.down


class Writer(Protocol):
    """What a script writes with."""

    new_id: SystemIds

    @property
    def log(self) -> EventLog:
        """Where it writes to."""
        ...


class RunScript:
    """Writes a run's events as handlers and executors would."""

    def __init__(self, door: "Writer", run_id: str, tenant_id: str = TENANT) -> None:
        self.door = door
        self.run = Run(run_ref(tenant_id, run_id))

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.run.ref.aggregate_id

    def moment(self) -> Moment:
        """Return now."""
        origin = Origin(TRACE, Principal(principal_id="usr_a"))
        return Moment(time.time_ns() // 1_000_000, self.door.new_id, origin)

    def stage_created(self, agent_id: str = AGENT, **changes: Any) -> "RunScript":
        """Stage `run.created`."""
        created = RunCreated(
            input={"type": "text", "text": changes.pop("text", "hello")},
            context={"locale": "en-US", "timezone": "UTC"},
            tooling={},
            run_options={"priority": "normal", "stream_events": True},
            principal=Principal(principal_id="usr_a"),
            policy_context=PolicyContext(),
            agent_version="1",
            **changes,
        )
        self.run.create(agent_id, created, self.moment())
        return self

    def stage_steps(self, count: int, text: str = "step") -> "RunScript":
        """Stage some events: one start of an attempt each."""
        for at in range(count):
            self.run.start(f"wrk_{text}{at}", self.moment())
        return self

    def stage_end(self, text: str = "hello") -> "RunScript":
        """Stage the final event."""
        self.run.complete(Output(text=text), self.moment())
        return self

    def stage_failed(self) -> "RunScript":
        """Stage a failed end."""
        self.run.fail(ErrorInfo(code="tool_failed", message="no"), self.moment())
        return self

    async def write(self) -> int:
        """Append what was staged as one commit."""
        commit = make_commit(self.run.ref, self.run.collect(), self.door.new_id)
        self.run.position = await self.door.log.append(commit, expected=self.run.position)
        return self.run.position


class EveryTenant(set[str]):
    """The set that every tenant is in."""

    def __contains__(self, tenant_id: object) -> bool:
        return True


async def accepted(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a command that is only noted."""
    return {}


class Door:
    """A gateway process under test. Every tenant may act in it, unless `tenants` are named:
    then those are written to its log, and it goes by the log."""

    def __init__(self, limits: StreamLimits | None = None, **options: Any) -> None:
        self.new_id = SystemIds()
        self.log = MemoryLog()
        self.signals = MemorySignals()
        self.reads = MemoryReads()
        self.bus = MemoryBus({"audit.query": accepted, "audit.denials": accepted})
        self.sent: list[tuple[str, AuthContext, Mapping[str, Any]]] = []
        self.limits = limits
        self.options = options
        self.allow_dev_headers = options.pop("allow_dev_headers", True)
        self.tenants: Sequence[str] | None = options.pop("tenants", None)
        self.throttle: Throttle | None = options.pop("throttle", None)
        self.oidc: Issuer | None = options.pop("oidc", None)
        self.peering: Callable[[Sequence[str]], Peering] = options.pop("peering", alone)
        self.tls: ssl.SSLContext | None = options.pop("tls", None)
        self.stop = asyncio.Event()
        self.ports: dict[int, int] = {}
        self._ids = itertools.count(1)

    async def start(self) -> None:
        """Open the doors, or open them again."""
        self.stop = asyncio.Event()
        sockets = [listen("127.0.0.1", self.ports.get(at, 0)) for at in range(3)]
        self.urls = [f"http://127.0.0.1:{held.getsockname()[1]}" for held in sockets]
        self.ports = {at: held.getsockname()[1] for at, held in enumerate(sockets)}
        if self.tls is not None:
            self.urls[2] = self.urls[2].replace("http://", "https://")
        self.accounts = Accounts(self.log)
        if self.tenants is None:
            self.accounts.active = EveryTenant()
        for tenant_id in self.tenants or ():
            await self.change_tenant(tenant_id, "create", Profile(name=tenant_id))
        self.identity = LocalIdentity(
            SECRET,
            allow_dev_headers=self.allow_dev_headers,
            accounts=self.accounts,
            throttle=self.throttle,
            oidc=self.oidc,
        )
        ports = Ports(
            bus=self.bus,
            log=self.log,
            signals=self.signals,
            reads=self.reads,
            identity=self.identity,
            accounts=self.accounts,
            new_id=self.new_id,
            clock=SystemClock(),
            answers=MemoryAnswers(),
            make_backend=make_backend,
            peering=self.peering(self.urls),
        )
        self.gateway = Gateway(ports, limits=self.limits, **self.options)
        doors = (
            self.gateway.orchestrator(),
            self.gateway.model_policy(),
            self.gateway.federation(),
        )
        self.port = sockets[0].getsockname()[1]
        self.task = asyncio.create_task(
            run_doors(
                self.gateway,
                [*map(make_server, doors[:2]), make_server(doors[2], self.tls)],
                sockets,
                self.stop,
            )
        )
        self.client = aiohttp.ClientSession(self.urls[0])
        async with asyncio.timeout(5):
            await self.gateway.tail.reached.wait()

    async def close(self) -> None:
        """Close the doors."""
        await self.client.close()
        self.stop.set()
        async with asyncio.timeout(20):
            await self.task

    async def change_tenant(self, tenant_id: str, change: str, *arguments: Any) -> None:
        """Write what a tenant's own command (`create`, `disable` …) decides."""
        ref = tenant_ref(tenant_id)
        tenant = Tenant(ref).fold(await self.log.read(ref))
        events = getattr(tenant, change)(*arguments, self.script("run_x").moment())
        commit = make_commit(ref, events, self.new_id)
        await self.log.append(commit, expected=tenant.position)

    async def change_key(self, key: Key, change: str, *arguments: Any) -> None:
        """Write what a key's own command (`issue`, `rotate`, `revoke`) decides."""
        events = getattr(key, change)(*arguments, self.script("run_x").moment())
        commit = make_commit(key.ref, events, self.new_id)
        await self.log.append(commit, expected=key.position)
        key.fold(await self.log.read(key.ref, after=key.position))

    def script(self, run_id: str | None = None, tenant_id: str = TENANT) -> RunScript:
        """Return the script of a new run."""
        return RunScript(self, run_id or f"run_{next(self._ids)}", tenant_id)

    async def finished(self, steps: int = 1, run_id: str | None = None) -> RunScript:
        """Write a run that has ended, in one commit."""
        script = self.script(run_id).stage_created().stage_steps(steps).stage_end()
        await script.write()
        return script

    async def registered(self, agent_id: str = AGENT, tenant_id: str = TENANT) -> None:
        """Write an agent."""
        agent = Agent(agent_ref(tenant_id, agent_id))
        at = self.script("run_x").moment()
        events = agent.register(Definition(name="Echo", model_ref="builtin/echo"), at)
        await self.log.append(make_commit(agent.ref, events, self.new_id), expected=0)

    def answer(self, name: str, content: Mapping[str, Any] | AgentOSError) -> None:
        """Let a command be answered so, and remember it."""

        async def handle(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
            self.sent.append((name, auth, command))
            if isinstance(content, AgentOSError):
                raise content
            return dict(content)

        self.bus.handlers[name] = handle

    async def call(
        self,
        method: str,
        path: str | URL,
        *,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Make a call as the tenant's user, or with `headers`; return status, body, headers."""
        sent = bearer() if headers is None else headers
        async with self.client.request(method, path, headers=sent, **options) as response:
            body = await response.read()
            return response.status, json.loads(body) if body else {}, response.headers

    async def create(self, body: Any, **options: Any) -> tuple[int, dict[str, Any]]:
        """Post a run; `body` as JSON, or as it is when it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, answer, _ = await self.call(
            "POST", f"/v1/agents/{AGENT}/runs", data=data, **options
        )
        return status, answer


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A gateway process with development headers allowed."""
    opened = Door()
    await opened.start()
    yield opened
    await opened.close()


@dataclass(frozen=True)
class Message:
    """One server-sent event."""

    event: str
    id: str
    data: Any


class Reader:
    """Reads a stream event by event."""

    def __init__(self, response: aiohttp.ClientResponse, timeout: float = 5) -> None:
        self.response = response
        self.timeout = timeout
        self.raw = b""

    async def next(self) -> Message | None:
        """Return the next event, `None` at the end; what is no event is passed over."""
        async with asyncio.timeout(self.timeout):
            while True:
                frame = b""
                while not frame.endswith(b"\n\n"):
                    line = await self.response.content.readline()
                    if not line:
                        return None
                    frame += line
                self.raw += frame
                if not frame.startswith((b":", b"id: ")):
                    return _message(frame)

    async def rest(self) -> list[Message]:
        """Return everything up to the end."""
        found = []
        while (message := await self.next()) is not None:
            found.append(message)
        return found


def _message(frame: bytes) -> Message:
    fields = dict(line.split(b": ", 1) for line in frame.strip().split(b"\n"))
    return Message(
        fields[b"event"].decode(), fields.get(b"id", b"").decode(), json.loads(fields[b"data"])
    )


async def eventually(condition: Callable[[], object]) -> None:
    """Return as soon as `condition` holds; fail after some seconds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is asked for has no event of its own
            await asyncio.sleep(0.005)


def sequences(messages: Sequence[Message]) -> list[int]:
    """Return the sequences of events."""
    return [message.data["event"]["sequence"] for message in messages]
