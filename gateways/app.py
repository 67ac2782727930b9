"""The gateway process: three doors on one event loop, put together here."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from socket import socket
from typing import TYPE_CHECKING, Any, Final

import orjson
import uvloop
from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.federation.forward import forward_ref
from agentos.domain.federation.models import ModelsHere, models_here
from agentos.domain.federation.remote import remote_ref
from agentos.domain.models.catalog import BackendEntry
from agentos.domain.models.defaults import completed
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate
from agentos.domain.policy.names import NameFinder
from agentos.domain.ports import (
    Clock,
    CommandBus,
    ContentKeys,
    Contents,
    EventLog,
    ModelBackend,
    NewId,
    Signals,
)
from agentos.domain.privacy.bodies import BodyStore
from agentos.domain.subjects import heartbeat
from agentos.federation import app as federation
from agentos.federation.door import Federation
from agentos.federation.elsewhere import RunsElsewhere
from agentos.federation.ingest import MAX_BODY_BYTES as INGEST_BYTES
from agentos.federation.ingest import PATH as INGEST_PATH
from agentos.federation.parts import LocalNode, OpenWork, Peering
from agentos.federation.parts import Ports as FederationPorts
from agentos.gateways.http.denials import Denials, key_read
from agentos.gateways.http.followed import Followed
from agentos.gateways.http.health import Vitals
from agentos.gateways.http.identity import Identity, LocalIdentity
from agentos.gateways.http.keys import KeyUsage, KeyUses
from agentos.gateways.http.metrics import Metrics
from agentos.gateways.http.middleware import Doorway
from agentos.gateways.http.node_metrics import NodeMetrics
from agentos.gateways.http.projection_lag import ProjectionLag
from agentos.gateways.http.readiness import Heartbeats, NodeReadiness
from agentos.gateways.http.routing import Gate
from agentos.gateways.http.server import DoorServer, listen, make_server
from agentos.gateways.http.sse import StreamLimits, Streams
from agentos.gateways.http.tail import SharedTail
from agentos.gateways.http.tenants import Accounts
from agentos.gateways.http.tokens import Issuer
from agentos.gateways.model_policy import app as model_policy
from agentos.gateways.model_policy.backends import MakeBackend
from agentos.gateways.model_policy.idempotency import AnswerStore
from agentos.gateways.model_policy.parts import Parts as ModelParts
from agentos.gateways.model_policy.services import ModelPorts, ModelServices
from agentos.gateways.orchestrator import app as orchestrator
from agentos.gateways.orchestrator.approvals import decide_here, list_here
from agentos.gateways.orchestrator.parts import Parts, PostgresReadModels, ReadModels
from agentos.gateways.orchestrator.routes import add_peer_routes
from agentos.gateways.orchestrator.run_events import stream_own_events
from agentos.gateways.orchestrator.runs import cancel_here
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.federation.tls import door_context
from agentos.infra.jetstream.answers import JetStreamAnswers
from agentos.infra.jetstream.bus import NatsCommandBus
from agentos.infra.jetstream.call_bodies import JetStreamCallBodies
from agentos.infra.jetstream.connection import Connection, bounded_close
from agentos.infra.jetstream.key_usage import JetStreamKeyUsage
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.signals import NatsSignals
from agentos.infra.models.build import make_backend
from agentos.infra.models.keys import key_of, key_source
from agentos.infra.names import installed_names
from agentos.infra.oidc import OidcKeys
from agentos.infra.privacy.build import content_keys
from agentos.infra.privacy.sealed_log import SealedLog
from agentos.projections.open_forwards.queries import open_forwards
from agentos.projections.queries import Pool, make_pool
from agentos.projections.remote_runs.queries import copies_by_peer, open_copies

if TYPE_CHECKING:
    from agentos.infra.settings import Settings

log = logging.getLogger(__name__)

SERVICE: Final = "gateway"
BEAT_S: Final = 0.5
CLOSE_S: Final = 2.0
POOL_SIZE: Final = 4
NEEDED: Final = ("handlers", "executor")
KNOWN: Final = ("tenant", "policy", "catalog", "subject")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The adapters that a gateway process works with, and what else they need to have run."""

    bus: CommandBus
    log: EventLog
    signals: Signals
    reads: ReadModels
    identity: Identity
    accounts: Accounts
    new_id: NewId
    clock: Clock
    answers: AnswerStore
    make_backend: MakeBackend
    key_source: Callable[[BackendEntry], str | None] = lambda entry: entry.api_key_file and "file"
    node: str = "stk_local"
    idempotency_ttl_s: int = 86_400
    key_usage: KeyUsage | None = None
    contents: Contents | None = None
    keys: ContentKeys | None = None
    bodies: BodyStore | None = None
    names: NameFinder | None = None
    peering: Peering | None = None
    background: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()


class PostgresCopies:
    """What the read model says of the copies of remote runs."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def by_peer(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each stack; `DependencyUnavailableError`."""
        return await copies_by_peer(self._pool)

    async def open_work(self) -> OpenWork:
        """Return what is open where the slower of the two tables stands."""
        forwards, copies = await open_forwards(self._pool), await open_copies(self._pool)
        return OpenWork(
            min(forwards[0], copies[0]),
            {forward_ref(*place) for place in forwards[1]},
            {remote_ref(*place) for place in copies[1]},
        )


class Gateway:
    """The shared parts of one gateway process, and its three doors."""

    def __init__(
        self,
        ports: Ports,
        *,
        max_body_bytes: int = 1024 * 1024,
        metrics_require_auth: bool = False,
        limits: StreamLimits | None = None,
        cancel_s: float = 10.0,
    ) -> None:
        self._ports = ports
        self._max_body_bytes = max_body_bytes
        self._metrics_require_auth = metrics_require_auth
        self._version = version("agentos")
        self.metrics = Metrics()
        self.streams = Streams(self.metrics.sse_streams, limits, ports.accounts.refusal)
        ports.accounts.on_closed.append(self.streams.cut_refused)
        self.tail = SharedTail(ports.log, ports.contents)
        self._known = Followed(ports.log, KNOWN)
        self._denials = Denials(ports.bus)
        self.models = ModelServices(self._model_ports(), self._known, self.metrics)
        self.heartbeats = Heartbeats(ports.signals)
        self.node_metrics = NodeMetrics(ports.signals)
        self.metrics.registry.register(self.node_metrics)
        self._lag = ProjectionLag(ports.reads.positions, ports.log.head, self.metrics.registry)
        self._gate = Gate(ports.identity, ports.accounts, self.metrics, self._denials)
        self._federation = None if ports.peering is None else self._federate(ports.peering)
        probes = {"nats": ports.log.head, "postgres": ports.reads.ping}
        self._readiness = NodeReadiness(probes, self.heartbeats, NEEDED)
        self._cancel_s = cancel_s

    def _federate(self, peering: Peering) -> Federation:
        """Return what this process does with its peers; identities that they vouch for count."""
        ports = self._ports
        federated = Federation(
            FederationPorts(
                peering=peering,
                local=LocalNode(
                    peering.local,
                    self._models_here,
                    max_concurrent_runs=peering.max_concurrent_runs,
                    active_runs=lambda: int(self.node_metrics.total("agentos_runs_active")),
                ),
                bus=ports.bus,
                log=ports.log,
                streams=self.streams,
                new_id=ports.new_id,
                local_events=_own_events,
                local_cancel=cancel_here,
                local_decide=decide_here,
                local_approvals=list_here,
                on_failure=self.metrics.forward_failed,
            )
        )
        self._gate.peers = federated.gate
        if isinstance(ports.identity, LocalIdentity):
            ports.identity.trust(federated.tokens)
        return federated

    def _model_ports(self) -> ModelPorts:
        ports = self._ports
        return ModelPorts(
            bus=ports.bus,
            log=ports.log,
            signals=ports.signals,
            clock=ports.clock,
            new_id=ports.new_id,
            answers=ports.answers,
            make_backend=self._make_backend,
            node=ports.node,
            idempotency_ttl_s=ports.idempotency_ttl_s,
            keys=ports.keys,
            bodies=ports.bodies,
            names=ports.names,
        )

    def _make_backend(self, entry: BackendEntry) -> ModelBackend:
        """Return a backend; that its key was read for it is noted, the key never."""
        source = self._ports.key_source(entry)
        outcome = "error"
        try:
            backend = self._ports.make_backend(entry)
            outcome = "allowed"
            return backend
        finally:
            if source is not None:
                self._denials.count(key_read(entry.name, source, outcome))

    async def _models_here(self) -> ModelsHere:
        catalog = await self._known.get(CatalogAggregate, CATALOG_REF)
        return models_here(completed(catalog.document))

    def _run_parts(self) -> Parts:
        ports = self._ports
        return Parts(
            bus=ports.bus,
            log=ports.log,
            signals=ports.signals,
            reads=ports.reads,
            tail=self.tail,
            streams=self.streams,
            cancel_s=self._cancel_s,
            key_usage=ports.key_usage,
            elsewhere=RunsElsewhere(self._federation) if self._federation else None,
            contents=ports.contents,
        )

    def orchestrator(self) -> ASGIApp:
        """Return the orchestrator's door."""
        service = orchestrator.SERVICE
        return self._door(
            service,
            orchestrator.create_app(self._gate, self._vitals(service), self._run_parts()),
        )

    def model_policy(self) -> ASGIApp:
        """Return the model and policy gateway's door."""
        ports = self._ports
        parts = ModelParts(
            bus=ports.bus,
            log=ports.log,
            known=self._known,
            policies=self.models.policies,
            pipeline=self.models.pipeline,
            streams=self.streams,
        )
        service = model_policy.SERVICE
        return self._door(
            service, model_policy.create_app(self._gate, self._vitals(service), parts)
        )

    def federation(self) -> ASGIApp:
        """Return the federation gateway's door."""
        service = federation.SERVICE
        app = federation.create_app(
            self._gate, self._vitals(service), self._federation, self._run_parts()
        )
        add_peer_routes(app)
        return self._door(service, app, {INGEST_PATH: INGEST_BYTES})

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """Return what has to run for as long as the doors are open."""
        ports = self._ports
        parts = [
            self.tail.run(),
            self._known.run(),
            self.streams.run(),
            self.heartbeats.run(),
            self.node_metrics.run(),
            ports.accounts.run(),
            self._denials.run(),
            self._beat(),
        ]
        if ports.key_usage is not None:
            parts.append(KeyUses(ports.accounts, ports.key_usage).run())
        if self._federation is not None:
            parts += self._federation.work()
        return [*parts, *self.models.work(), *(part() for part in ports.background)]

    def _vitals(self, service: str) -> Vitals:
        checks = self._readiness.checks
        auth = self._metrics_require_auth
        return Vitals(service, self._version, checks, auth, self._lag.refresh)

    def _door(self, service: str, app: FastAPI, larger: Mapping[str, int] | None = None) -> ASGIApp:
        return Doorway(
            app,
            service=service,
            new_id=self._ports.new_id,
            metrics=self.metrics,
            max_body_bytes=self._max_body_bytes,
            larger=larger,
        )

    async def _beat(self) -> None:
        worker_id = self._ports.new_id("wrk")
        subject = heartbeat(SERVICE, worker_id)
        while True:
            beat = {
                "service": SERVICE,
                "worker_id": worker_id,
                "pid": os.getpid(),
                "streams": len(self.streams),
            }
            await self._ports.signals.publish(subject, orjson.dumps(beat))
            await asyncio.sleep(BEAT_S)


async def _own_events(request: Request) -> ASGIApp:
    return stream_own_events(request)


def documented_doors() -> dict[str, FastAPI]:
    """Return each door's routes by its name, without parts: only to be documented."""
    return {
        "orchestrator": orchestrator.create_app(),
        "model-policy": model_policy.create_app(),
        "federation": _documented_federation(),
    }


def _documented_federation() -> FastAPI:
    app = federation.create_app()
    add_peer_routes(app)
    return app


def main(settings: "Settings") -> None:
    """Run the gateway process; returns after SIGTERM or SIGINT."""
    _allow_many_connections()
    uvloop.run(serve(settings))


async def serve(settings: "Settings") -> None:
    """Open the three ports and serve until a signal asks to stop.

    What cannot be reached does not keep the ports closed: `/readyz` says so, and calls that
    need it are answered 503. Raises `OSError` when a port is taken.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sockets = [listen(settings.host, port) for port in settings.ports.values()]
    runtime = settings.runtime()
    connection = Connection()
    pool = make_pool(runtime.postgres_dsn, max_size=POOL_SIZE, name="agentos-gateway")
    event_log = JetStreamLog(connection)
    keys = content_keys(settings, connection)
    opened_log = SealedLog(event_log, keys)
    accounts = Accounts(event_log)
    oidc_keys = OidcKeys(settings.oidc_issuer, settings.oidc_jwks_url)
    issuer = Issuer(settings.oidc_issuer, settings.oidc_audience, oidc_keys)
    ports = Ports(
        bus=NatsCommandBus(connection),
        log=opened_log,
        contents=opened_log,
        keys=keys,
        bodies=JetStreamCallBodies(connection),
        signals=NatsSignals(connection),
        reads=PostgresReadModels(pool),
        identity=LocalIdentity(
            runtime.jwt_secret,
            allow_dev_headers=settings.allow_dev_headers,
            region=settings.region,
            oidc=issuer if settings.oidc_issuer else None,
            accounts=accounts,
        ),
        accounts=accounts,
        key_usage=JetStreamKeyUsage(connection),
        background=(oidc_keys.run,) if settings.oidc_issuer else (),
        new_id=SystemIds(),
        clock=SystemClock(),
        answers=JetStreamAnswers(connection),
        make_backend=partial(_backend, settings),
        key_source=partial(key_source, settings),
        node=settings.stack_id,
        idempotency_ttl_s=settings.idempotency_ttl_hours * 3600,
        names=installed_names(),
        peering=federation.make_peering(settings, PostgresCopies(pool)),
    )
    gateway = Gateway(
        ports,
        max_body_bytes=settings.max_body_bytes,
        metrics_require_auth=settings.metrics_require_auth,
    )
    doors = (gateway.orchestrator(), gateway.model_policy(), gateway.federation())
    opening = asyncio.create_task(connection.open(runtime.nats_url, SERVICE))
    await pool.open()
    gc.freeze()  # the doors stay as they are, and are many thousand objects
    log.info("gateway serves on %s", settings.endpoints)
    try:
        servers = [*map(make_server, doors[:2]), make_server(doors[2], door_context(settings))]
        await run_doors(gateway, servers, sockets, stop)
    finally:
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await bounded_close(connection)
        await pool.close(CLOSE_S)


def _backend(settings: "Settings", entry: BackendEntry) -> ModelBackend:
    """Return the backend of an entry, with its key: from its file, or the node's settings."""
    try:
        return make_backend(entry, key_of(settings, entry))
    except (OSError, ValueError) as exc:
        # Neither the key nor what the file held is in the message.
        raise DependencyUnavailableError(
            f"the backend {entry.name} cannot be made: {type(exc).__name__}; see its base_url and "
            "api_key_file (agentos config check)",
            dependency=entry.name,
        ) from None


async def run_doors(
    gateway: Gateway, servers: Sequence[DoorServer], sockets: Sequence[socket], stop: asyncio.Event
) -> None:
    """Serve until `stop`, then end the streams and let the calls in hand finish.

    Raises what broke a part that must run.
    """
    serving = [
        asyncio.create_task(server.serve(sockets=[held]))
        for server, held in zip(servers, sockets, strict=True)
    ]
    working = [asyncio.create_task(part) for part in gateway.work()]
    waiting = asyncio.create_task(stop.wait())
    tasks: list[asyncio.Task[Any]] = [waiting, *serving, *working]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        gateway.streams.end_all()
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*serving)
        for task in working:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await gateway.models.aclose()


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as the system lets us: one a connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
