"""Which command goes to which handler: the whole table on one screen."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from agentos.domain.auth import AuthContext
from agentos.handlers import (
    agents,
    approvals,
    audit,
    catalog,
    erasure,
    federation,
    forks,
    keys,
    policies,
    quotas,
    runs,
    tenants,
    usage,
)
from agentos.handlers.commands import (
    AcceptForward,
    ActivatePolicy,
    AddPeer,
    CancelRun,
    Command,
    CopyEvents,
    CreateRun,
    CreateTenant,
    DecideApproval,
    DeleteTenant,
    DeprecateAgent,
    DisableTenant,
    EnableTenant,
    EraseSubject,
    FailForward,
    ForkRun,
    IngestEvents,
    IssueKey,
    NoteDenials,
    NotePeer,
    NoteQuery,
    PublishCatalog,
    PublishPolicy,
    RecordUsage,
    RegisterAgent,
    RemovePeer,
    RequestForward,
    ReserveQuota,
    RevokeKey,
    RotateKey,
    SettleQuota,
    UpdateAgent,
    UpdateTenant,
)
from agentos.handlers.parts import Parts

Handler = Callable[[Parts, AuthContext, Any], Awaitable[dict[str, Any]]]

ROUTES: Final[dict[str, tuple[type[Command], Handler]]] = {
    "run.create": (CreateRun, runs.create_run),
    "run.cancel": (CancelRun, runs.cancel_run),
    "approval.decide": (DecideApproval, approvals.decide_on_approval),
    "run.fork": (ForkRun, forks.fork_run),
    "agent.register": (RegisterAgent, agents.register_agent),
    "agent.update": (UpdateAgent, agents.update_agent),
    "agent.deprecate": (DeprecateAgent, agents.deprecate_agent),
    "quota.reserve": (ReserveQuota, quotas.reserve_quota),
    "quota.settle": (SettleQuota, quotas.settle_quota),
    "catalog.publish": (PublishCatalog, catalog.publish_catalog),
    "tenant.create": (CreateTenant, tenants.create_tenant),
    "tenant.update": (UpdateTenant, tenants.update_tenant),
    "tenant.enable": (EnableTenant, tenants.enable_tenant),
    "tenant.disable": (DisableTenant, tenants.disable_tenant),
    "tenant.delete": (DeleteTenant, tenants.delete_tenant),
    "subject.erase": (EraseSubject, erasure.erase_subject),
    "key.issue": (IssueKey, keys.issue_key),
    "key.rotate": (RotateKey, keys.rotate_key),
    "key.revoke": (RevokeKey, keys.revoke_key),
    "usage.record": (RecordUsage, usage.record_usage),
    "policy.publish": (PublishPolicy, policies.publish_policy),
    "policy.activate": (ActivatePolicy, policies.activate_policy),
    "audit.denials": (NoteDenials, audit.note_denials),
    "audit.query": (NoteQuery, audit.note_query),
    "forward.request": (RequestForward, federation.request_forward),
    "forward.accept": (AcceptForward, federation.accept_forward),
    "forward.fail": (FailForward, federation.fail_forward),
    "remote.copy": (CopyEvents, federation.copy_events),
    "events.ingest": (IngestEvents, federation.ingest_events),
    "peer.note": (NotePeer, federation.note_peer),
    "peer.add": (AddPeer, federation.add_peer),
    "peer.remove": (RemovePeer, federation.remove_peer),
}


async def handle(parts: Parts, name: str, message: dict[str, Any]) -> dict[str, Any]:
    """Parse one command `{auth, command}` and let its handler decide; raises what it raises."""
    kind, handler = ROUTES[name]
    auth = AuthContext.model_validate(message["auth"])
    return await handler(parts, auth, kind.model_validate(message["command"]))
