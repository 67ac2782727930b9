"""The governed pipeline and what it is made of, put together once a process."""

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from agentos.domain.models.published import CATALOG_REF, CatalogAggregate
from agentos.domain.policy.names import NameFinder
from agentos.domain.ports import Clock, CommandBus, ContentKeys, EventLog, NewId, Signals
from agentos.domain.privacy.bodies import BodyStore
from agentos.gateways.http.followed import Followed
from agentos.gateways.http.metrics import Metrics
from agentos.gateways.model_policy.backends import MakeBackend
from agentos.gateways.model_policy.bodies import Bodies
from agentos.gateways.model_policy.budgets import Budgets
from agentos.gateways.model_policy.genai_metrics import GenAiMetrics
from agentos.gateways.model_policy.governed import Entitlements, Gates
from agentos.gateways.model_policy.idempotency import AnswerStore, Idempotency
from agentos.gateways.model_policy.keeping import Keeping
from agentos.gateways.model_policy.metering import Meter
from agentos.gateways.model_policy.pipeline import GovernedPipeline
from agentos.gateways.model_policy.policies import Policies
from agentos.gateways.model_policy.router import Router


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPorts:
    """The adapters of model services. `node` names this node in routes."""

    bus: CommandBus
    log: EventLog
    signals: Signals
    clock: Clock
    new_id: NewId
    answers: AnswerStore
    make_backend: MakeBackend
    node: str
    idempotency_ttl_s: int
    names: NameFinder | None = None
    keys: ContentKeys | None = None
    bodies: BodyStore | None = None


class ModelServices:
    """All parts of the pipeline; `work()` has to run for as long as calls are taken."""

    def __init__(self, ports: ModelPorts, known: Followed, metrics: Metrics) -> None:
        self.known = known
        self.policies = Policies(known, ports.names)
        genai = GenAiMetrics(lambda: known.peek(CatalogAggregate, CATALOG_REF))
        metrics.registry.register(genai)
        metrics.on_model_call.append(genai.called)
        self.router = Router(known, ports.make_backend, metrics.registry)
        self.budgets = Budgets(ports.bus, ports.clock, ports.new_id, ports.signals)
        self.meter = Meter(ports.bus, ports.log, ports.new_id, metrics)
        self.entitlements = Entitlements()
        gates = Gates(
            known=known,
            router=self.router,
            budgets=self.budgets,
            policies=self.policies,
            meter=self.meter,
            clock=ports.clock,
            node=ports.node,
            entitlements=self.entitlements,
        )
        keeping = Keeping(known, ports.keys)
        idempotency = Idempotency(
            ports.answers, ports.new_id, ports.idempotency_ttl_s, keeping=keeping
        )
        self.bodies: Bodies | None = None
        if ports.keys is not None and ports.bodies is not None:
            self.bodies = Bodies(ports.bodies, ports.keys, keeping, known, metrics)
        self.pipeline = GovernedPipeline(gates, idempotency, self.bodies)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """Return what has to run; cancelled, each gives back or writes what it still has."""
        parts = [self.router.run(), self.budgets.run(), self.meter.run()]
        return parts if self.bodies is None else [*parts, self.bodies.run()]

    async def aclose(self) -> None:
        """Close the backends' connections."""
        await self.router.aclose()
