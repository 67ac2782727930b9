"""The names of all events, for ever: a name may be added here, none may go or change."""

import importlib
import pkgutil
from collections.abc import Mapping

from agentos import domain
from agentos.domain.admission.admission import Admission
from agentos.domain.admission.ledger import Ledger
from agentos.domain.agent.agent import Agent
from agentos.domain.aggregate import Aggregate
from agentos.domain.audit.chain import AuditChain
from agentos.domain.audit.checkpoint import AuditCheckpoints, AuditKeys
from agentos.domain.envelope import Payload
from agentos.domain.federation.forward import Forward
from agentos.domain.federation.ingest import Ingest
from agentos.domain.federation.peer import Peer
from agentos.domain.federation.remote import RemoteRun
from agentos.domain.key.key import Key
from agentos.domain.models.published import CatalogAggregate
from agentos.domain.policy.policy import Policy
from agentos.domain.privacy.subject import DataSubject
from agentos.domain.retention.retention import RetentionOf
from agentos.domain.run.events import FINAL_TYPES, SHORT_NAMES
from agentos.domain.run.run import Run
from agentos.domain.tenant.tenant import Tenant
from agentos.domain.usage.usage import Usage

AGGREGATES: tuple[type[Aggregate], ...] = (
    Run,
    Ledger,
    Agent,
    Tenant,
    Key,
    AuditCheckpoints,
    CatalogAggregate,
    Forward,
    RemoteRun,
    Ingest,
    Peer,
    Usage,
    Policy,
    RetentionOf,
    DataSubject,
)
NAMES = {
    "run": [
        "agentos.model.completed",
        "agentos.model.requested",
        "agentos.run.cancel_requested",
        "agentos.run.canceled",
        "agentos.run.completed",
        "agentos.run.created",
        "agentos.run.failed",
        "agentos.run.started",
        "agentos.run.step.completed",
        "agentos.run.step.started",
        "agentos.tool.call.approval_required",
        "agentos.tool.call.approved",
        "agentos.tool.call.completed",
        "agentos.tool.call.rejected",
        "agentos.tool.call.requested",
    ],
    "quota": [
        "agentos.quota.balanced",
        "agentos.quota.expired",
        "agentos.quota.released",
        "agentos.quota.reserved",
        "agentos.quota.settled",
    ],
    "federation": [
        "agentos.federation.forward.accepted",
        "agentos.federation.forward.failed",
        "agentos.federation.forward.requested",
    ],
    "remote": [
        "agentos.federation.events.copied",
        "agentos.federation.gap.filled",
        "agentos.federation.gap.found",
        "agentos.federation.run.ended",
        "agentos.federation.run.linked",
    ],
    "ingest": ["agentos.federation.events.ingested"],
    "peer": [
        "agentos.federation.peer.added",
        "agentos.federation.peer.lost",
        "agentos.federation.peer.removed",
        "agentos.federation.peer.seen",
    ],
    "audit": [
        "agentos.audit.checkpointed",
        "agentos.audit.key_published",
        "agentos.audit.recorded",
    ],
    "catalog": ["agentos.catalog.published"],
    "usage": ["agentos.usage.recorded"],
    "policy": ["agentos.policy.activated", "agentos.policy.published"],
    "retention": [
        "agentos.retention.applied",
        "agentos.retention.begun",
        "agentos.retention.planned",
    ],
    "subject": ["agentos.subject.erased", "agentos.subject.erasure_completed"],
    "key": ["agentos.key.issued", "agentos.key.revoked", "agentos.key.rotated"],
    "agent": ["agentos.agent.deprecated", "agentos.agent.registered", "agentos.agent.updated"],
    "tenant": [
        "agentos.tenant.created",
        "agentos.tenant.deleted",
        "agentos.tenant.disabled",
        "agentos.tenant.enabled",
        "agentos.tenant.updated",
    ],
}


def all_payloads() -> Mapping[str, type[Payload]]:
    """Return every registered payload class by its event's name."""
    return {name: kind for aggregate in AGGREGATES for name, kind in aggregate.PAYLOADS.items()}


def test_the_names_are_these() -> None:
    assert {a.KIND: sorted(a.PAYLOADS) for a in AGGREGATES} == NAMES


def test_no_two_aggregates_share_a_name() -> None:
    assert len(all_payloads()) == sum(len(a.PAYLOADS) for a in AGGREGATES)


def test_the_aggregates_of_an_audit_share_their_events() -> None:
    assert AuditChain.PAYLOADS.items() <= AuditCheckpoints.PAYLOADS.items()
    assert AuditKeys.PAYLOADS == AuditCheckpoints.PAYLOADS


def test_both_aggregates_of_a_quota_read_the_same_events() -> None:
    assert Admission.PAYLOADS.items() <= Ledger.PAYLOADS.items()


def test_every_name_is_its_payloads_own() -> None:
    assert all(name == kind.TYPE for name, kind in all_payloads().items())


def test_every_payload_class_is_registered() -> None:
    for module in pkgutil.walk_packages(domain.__path__, "agentos.domain."):
        importlib.import_module(module.name)
    known = {k for k in Payload.__subclasses__() if k.__module__.startswith("agentos.domain")}
    assert known == set(all_payloads().values())


def test_the_final_ones() -> None:
    assert {
        "agentos.run.completed",
        "agentos.run.failed",
        "agentos.run.canceled",
    } == FINAL_TYPES


def test_the_short_names_of_filters() -> None:
    assert SHORT_NAMES == {
        "run.created": "agentos.run.created",
        "run.completed": "agentos.run.completed",
        "run.failed": "agentos.run.failed",
        "step.started": "agentos.run.step.started",
        "tool.requested": "agentos.tool.call.requested",
        "tool.completed": "agentos.tool.call.completed",
        "model.requested": "agentos.model.requested",
        "model.completed": "agentos.model.completed",
    }
