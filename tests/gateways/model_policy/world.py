"""Model services of a gateway process, with real handlers behind it, and catalogs to taste."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from agentos.domain.aggregate import Moment, read_events
from agentos.domain.auth import SYSTEM_PRINCIPAL, USER_SCOPES, AuthContext, PolicyContext, Principal
from agentos.domain.envelope import NO_TRACE, Event, Origin
from agentos.domain.models.catalog import Catalog
from agentos.domain.models.defaults import completed
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate
from agentos.domain.policy.document import PolicyDocument
from agentos.domain.policy.names import NameFinder
from agentos.domain.policy.policy import Policy, policy_ref
from agentos.domain.ports import ChatMessage, EmbedRequest, ModelRequest
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.domain.usage.usage import Usage, UsageRecorded, usage_ref
from agentos.gateways.http.denials import Denials
from agentos.gateways.http.followed import Followed
from agentos.gateways.http.identity import LocalIdentity
from agentos.gateways.http.metrics import Metrics
from agentos.gateways.http.middleware import Doorway
from agentos.gateways.http.routing import Gate
from agentos.gateways.http.server import listen, make_server
from agentos.gateways.http.sse import Streams
from agentos.gateways.http.tenants import Accounts
from agentos.gateways.model_policy.app import create_app
from agentos.gateways.model_policy.calls import Caller
from agentos.gateways.model_policy.parts import Parts as ModelParts
from agentos.gateways.model_policy.services import ModelPorts, ModelServices
from agentos.handlers.parts import Parts
from agentos.handlers.routes import handle
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.memory.answers import MemoryAnswers
from agentos.infra.memory.bus import MemoryBus
from agentos.infra.memory.log import MemoryLog
from agentos.infra.models.build import make_backend
from tests.gateways.conftest import SECRET, EveryTenant
from tests.handlers.node import Node, a_node

new_id = SystemIds()
COMMANDS = ("quota.reserve", "quota.settle", "usage.record")


class World:
    """One tenant, one handler process, and gateway processes over one log and one answer store."""

    def __init__(self, node: Node, parts: Parts) -> None:
        self.node = node
        self.clock = SystemClock()
        self.answers = MemoryAnswers()
        self._parts = parts

    def bus(self) -> MemoryBus:
        """Return a bus to the handler process."""
        return MemoryBus({name: self._handler(name) for name in COMMANDS})

    def _handler(self, name: str) -> Any:
        async def answer(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
            message = {"auth": auth.model_dump(), "command": dict(command)}
            return await handle(self._parts, name, message)

        return answer

    async def tenant(self, **profile: Any) -> None:
        """Make the tenant, or change it."""
        ref = tenant_ref("tnt_a")
        tenant = Tenant(ref).fold(await self.node.log.read(ref))
        new = Profile.model_validate({"name": "A", "plan_tier": "demo", **profile})
        events = tenant.update(new, self.at()) if tenant.position else tenant.create(new, self.at())
        if events:
            await self.node.write(ref, events, tenant.position)

    async def catalog(self, **document: Any) -> None:
        """Publish a catalog; what it leaves out is the box's."""
        ref = CATALOG_REF
        catalog = CatalogAggregate(ref).fold(await self.node.log.read(ref))
        new = completed(Catalog.model_validate(document))
        events = catalog.publish(new, "api", self.at())
        await self.node.write(ref, events, catalog.position)

    async def policy(self, *rules: Mapping[str, Any], policy_id: str = "pol_a") -> None:
        """Publish a policy and let it hold for the tenant."""
        ref = policy_ref("tnt_a", policy_id)
        policy = Policy(ref).fold(await self.node.log.read(ref))
        document = PolicyDocument.model_validate({"name": "A", "rules": rules})
        events = policy.publish(document, activate=True, at=self.at())
        await self.node.write(ref, events, policy.position)
        await self.tenant(default_policy_id=policy_id)

    def at(self) -> Moment:
        """Return now."""
        return Moment(self.clock.now_ms(), new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))

    @asynccontextmanager
    async def services(
        self, metrics: Metrics | None = None, names: NameFinder | None = None
    ) -> AsyncIterator[ModelServices]:
        """Start a gateway process's model services; at the end everything is written."""
        known = Followed(self.node.log, ("tenant", "policy", "catalog"))
        ports = ModelPorts(
            bus=self.bus(),
            log=self.node.log,
            signals=self.node.signals,
            clock=self.clock,
            new_id=new_id,
            answers=self.answers,
            make_backend=make_backend,
            node="stk_a",
            idempotency_ttl_s=3600,
            names=names,
        )
        services = ModelServices(ports, known, metrics or Metrics())
        tasks = [asyncio.create_task(work) for work in (known.run(), *services.work())]
        await asyncio.sleep(0)  # what has not begun could not end well
        try:
            yield services
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await services.aclose()

    async def usage(self) -> list[UsageRecorded]:
        """Return the usage events in the log."""
        payloads = [event.payload for event in await self.usage_events()]
        return [payload for payload in payloads if isinstance(payload, UsageRecorded)]

    async def written(self, count: int, within: float = 5.0) -> list[UsageRecorded]:
        """Return the usage events once there are `count`: they come beside the answers."""
        async with asyncio.timeout(within):
            while len(found := await self.usage()) < count:  # noqa: ASYNC110 - a log's growth
                await asyncio.sleep(0.01)
        return found

    async def usage_events(self) -> list[Event]:
        """Return the usage events with their envelopes."""
        records = await self.node.log.read(usage_ref("tnt_a"))
        return [event for record in records for event in read_events(record, Usage.PAYLOADS)]


@asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    """A world with a tenant without limits."""
    async with a_node() as node:
        world = World(node, await node.handlers())
        await world.tenant()
        yield world


def caller(fingerprint: str | None = None, **more: Any) -> Caller:
    """Return a user of the tenant."""
    context = PolicyContext(**more.pop("context", {}))
    auth = AuthContext(
        tenant_id="tnt_a",
        principal=Principal(principal_id=more.pop("principal", "usr_a")),
        scopes=USER_SCOPES,
        policy_context=context,
    )
    return Caller(auth, "corr_1", NO_TRACE, fingerprint=fingerprint, **more)


def chat(text: str, model: str = "builtin/echo", **more: Any) -> ModelRequest:
    """Return a chat of one message."""
    request_id = more.pop("request_id", None) or new_id("req")
    return ModelRequest(request_id, model, [ChatMessage("user", text)], **more)


def embed(*texts: str, model: str = "builtin/embed") -> EmbedRequest:
    """Return an embedding call."""
    return EmbedRequest(new_id("req"), model, texts)


def openai_catalog(*base_urls: str, **more: Any) -> dict[str, Any]:
    """Return a catalog of OpenAI-compatible servers `a`, `b` … with a model `m` each."""
    names = [chr(ord("a") + number) for number in range(len(base_urls))]
    price = {"input_per_million": 2.0, "output_per_million": 8.0}
    chain = [{"targets": [{"model_id": f"{name}/m"}]} for name in names]
    document: dict[str, Any] = {
        "backends": [
            {"name": name, "kind": "openai", "base_url": url}
            for name, url in zip(names, base_urls, strict=True)
        ],
        "models": [{"model_id": f"{name}/m", "price": price} for name in names],
        "routes": [
            {
                "name": "chain",
                "operation": "chat",
                "chain": chain,
                "retries": {"attempts": 1, "base_backoff_ms": 0},
            }
        ],
    }
    return document | more


class Door:
    """A model door on a free port, over one gateway process's services."""

    def __init__(
        self, services: ModelServices, port: int = 0, accounts: Accounts | None = None
    ) -> None:
        log, bus = MemoryLog(), MemoryBus({})
        if accounts is None:
            accounts = Accounts(log)
            accounts.active = EveryTenant()
        self.metrics = Metrics()
        streams = Streams(self.metrics.sse_streams, None, accounts.refusal)
        accounts.on_closed.append(streams.cut_refused)
        identity = LocalIdentity(SECRET, allow_dev_headers=False, accounts=accounts)
        gate = Gate(identity, accounts, self.metrics, Denials(bus))
        parts = ModelParts(
            bus=bus,
            log=log,
            known=services.known,
            policies=services.policies,
            pipeline=services.pipeline,
            streams=streams,
        )
        doorway = Doorway(
            create_app(gate, None, parts),
            service="model-policy",
            new_id=new_id,
            metrics=Metrics(),
            max_body_bytes=1024 * 1024,
        )
        self._held = listen("127.0.0.1", port)
        self.port = self._held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = make_server(doorway)

    async def serve(self) -> None:
        """Serve until `stop`."""
        await self._server.serve(sockets=[self._held])

    def stop(self) -> None:
        """Close the door."""
        self._server.should_exit = True


@asynccontextmanager
async def a_door(
    services: ModelServices, port: int = 0, accounts: Accounts | None = None
) -> AsyncIterator[Door]:
    """Open a model door: to every tenant, unless `accounts` say who may come in."""
    door = Door(services, port, accounts)
    task = asyncio.create_task(door.serve())
    try:
        yield door
    finally:
        door.stop()
        await task
