"""The handlers of a key's commands: issue, rotate, revoke.

A secret is made here and leaves in the answer; the log has its hash only.
"""

import secrets
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from agentos.domain.aggregate import Moment
from agentos.domain.auth import (
    ADMIN_SCOPES,
    PLATFORM_SCOPES,
    ROLE_SCOPES,
    SYSTEM_PRINCIPAL,
    AuthContext,
    Principal,
    expand_scopes,
)
from agentos.domain.envelope import Event
from agentos.domain.errors import (
    ConflictError,
    DependencyUnavailableError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
)
from agentos.domain.ids import derived_id
from agentos.domain.key.key import (
    Grant,
    Key,
    KeyKind,
    hash_secret,
    key_ref,
    make_secret,
    prefix_of,
)
from agentos.domain.tenant.access import (
    PLATFORM,
    is_platform_admin,
    require_admin,
    require_reach,
)
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.handlers.audit import record_unchanged
from agentos.handlers.commands import Command, IssueKey, RevokeKey, RotateKey
from agentos.handlers.deciding import Decided, decide_once
from agentos.handlers.parts import Parts

PLATFORM_PRINCIPALS: Final = frozenset({"usr_platform_admin", SYSTEM_PRINCIPAL.principal_id})


async def issue_key(parts: Parts, auth: AuthContext, command: IssueKey) -> dict[str, Any]:
    """Make a key; returns `{key, secret, position}`, the secret this once.

    Raises `ForbiddenError` for more than the issuer may give, `ConflictError` for a repeat
    (`details.key_id`) and for a kind that this node does not serve.
    """
    await _admit(parts, auth, command.tenant_id)
    make = _maker(parts, command.kind)
    key_id = parts.new_id("key")
    if command.command_id:
        key_id = derived_id("key", command.tenant_id, command.command_id)
    grant = _grant(auth, command, key_id)
    if grant.expires_at is not None and grant.expires_at <= parts.clock.now_ms():
        raise _misfit("expires_at", "lies in the past")
    made = make(key_id)

    def decision(key: Key, at: Moment) -> list[Event]:
        return key.issue(grant, made.prefix, made.hashed, at)

    decided = await _decide(parts, auth, command, key_id, decision)
    answer = _shown_once(decided, made.secret)
    try:
        await _tell_broker(parts, decided.aggregate)
    except DependencyUnavailableError:
        # Its secret is never shown, so nobody can use it: it is taken back.
        await _decide(parts, auth, _taken_back(command), key_id, lambda key, at: key.revoke(at))
        raise
    return answer


async def rotate_key(parts: Parts, auth: AuthContext, command: RotateKey) -> dict[str, Any]:
    """Give a key a new secret, the old one holds `overlap_seconds` longer; as `issue_key`."""
    await _admit(parts, auth, command.tenant_id)
    known = await parts.directory.reload(Key, key_ref(command.tenant_id, command.key_id))
    known.require_known()
    made = _maker(parts, known.grant.kind)(command.key_id)

    def decision(key: Key, at: Moment) -> list[Event]:
        key.require_known()
        _require_may_grant(auth, key.grant.roles, frozenset(key.grant.scopes))
        overlap_ms = command.overlap_seconds * 1000
        return key.rotate(made.prefix, made.hashed, overlap_ms, at)

    decided = await _decide(parts, auth, command, command.key_id, decision)
    answer = _shown_once(decided, made.secret)
    await _tell_broker(parts, decided.aggregate)
    return answer


async def revoke_key(parts: Parts, auth: AuthContext, command: RevokeKey) -> dict[str, Any]:
    """Let a key identify nobody from now on; revoked twice, it stands once."""
    await _admit(parts, auth, command.tenant_id)

    def decision(key: Key, at: Moment) -> list[Event]:
        key.require_known()
        _require_may_give(auth, key.grant.roles)
        return key.revoke(at)

    decided = await _decide(parts, auth, command, command.key_id, decision)
    if not decided.is_same:
        raise ConflictError("the idempotency key was used for a different request")
    if not decided.events:
        await record_unchanged(parts, auth, command, "keys.revoke")
    await _tell_broker(parts, decided.aggregate)
    return {"key": decided.aggregate.view(), "position": decided.aggregate.position}


class _Made(NamedTuple):
    """A new secret: what people may see of it, what is shown once, what is kept."""

    prefix: str
    secret: str
    hashed: str


def _maker(parts: Parts, kind: KeyKind) -> Callable[[str], _Made]:
    """Return what makes a key's secret; `ConflictError` for a kind that is not served here."""
    if kind == "api":
        return _api_secret
    keeper = parts.subscribers
    if keeper is None:
        raise ConflictError(
            "subscriber keys need the embedded NATS server: accounts cannot be added to one "
            "that AGENTOS_NATS_URL names",
            missing="a broker of this node's own, which takes the accounts of tenants by reload",
        )
    return lambda _: _Made(*keeper.make_credential())


def _api_secret(key_id: str) -> _Made:
    secret = make_secret(key_id, secrets.token_urlsafe(32))
    return _Made(prefix_of(secret), secret, hash_secret(secret))


def _taken_back(command: IssueKey) -> IssueKey:
    again = None if command.command_id is None else derived_id("cmd", command.command_id, "revoke")
    return command.model_copy(update={"command_id": again})


async def _tell_broker(parts: Parts, key: Key) -> None:
    """Let the broker know a subscriber's key as it is now, before anybody is told."""
    if key.grant.kind == "subscriber" and parts.subscribers is not None:
        await parts.subscribers.refresh()


async def _admit(parts: Parts, auth: AuthContext, tenant_id: str) -> None:
    require_admin(auth)
    if not is_platform_admin(auth):
        await parts.directory.active_tenant(auth.tenant_id)
    require_reach(auth, tenant_id)
    tenant = await parts.directory.reload(Tenant, tenant_ref(tenant_id))
    if tenant.status in (None, "deleted"):
        raise NotFoundError("no such tenant")


def _grant(auth: AuthContext, command: IssueKey, key_id: str) -> Grant:
    """Return what the key may do: what was asked for, within its roles, within the issuer."""
    allowed = frozenset[str]()
    for role in command.roles:
        if role not in ROLE_SCOPES:
            raise _misfit("roles", f"no such role: {role[:100]}")
        allowed |= ROLE_SCOPES[role]
    _require_may_give(auth, command.roles)
    if command.scopes is None:
        scopes = allowed & auth.scopes
    else:
        scopes = expand_scopes(frozenset(command.scopes))
        for scope in sorted(scopes - allowed):
            raise _misfit("scopes", f"{scope[:100]} is not among what the roles allow")
    _require_may_grant(auth, command.roles, scopes)
    return Grant(
        kind=command.kind,
        name=command.name,
        principal=_principal(auth, command, key_id),
        roles=command.roles,
        scopes=tuple(sorted(scopes)),
        expires_at=command.expires_at,
    )


def _principal(auth: AuthContext, command: IssueKey, key_id: str) -> Principal:
    if command.principal is None:
        principal_id = f"svc_{key_id.removeprefix('key_')}"
        return Principal(principal_id=principal_id, principal_type="service")
    if command.principal.principal_id in PLATFORM_PRINCIPALS and not is_platform_admin(auth):
        raise ForbiddenError("that principal is the platform's own", required_scope=PLATFORM)
    return command.principal


def _require_may_give(auth: AuthContext, roles: tuple[str, ...]) -> None:
    """Raise unless the caller is of the rank to have to do with keys of those roles."""
    may = PLATFORM_SCOPES if is_platform_admin(auth) else ADMIN_SCOPES
    for role in roles:
        for scope in sorted(ROLE_SCOPES.get(role, frozenset()) - may):
            raise ForbiddenError(f"you may not give the role {role}", required_scope=scope)


def _require_may_grant(auth: AuthContext, roles: tuple[str, ...], scopes: frozenset[str]) -> None:
    """Raise unless the caller may hand out a secret with those roles and scopes.

    Nobody hands out what its own credential lacks: one that was narrowed stays narrow.
    """
    _require_may_give(auth, roles)
    for scope in sorted(scopes - auth.scopes):
        raise ForbiddenError("your own credential lacks the scope", required_scope=scope)


async def _decide(
    parts: Parts, auth: AuthContext, command: Command, key_id: str, decision: Any
) -> Decided[Key]:
    tenant_id: str = command.tenant_id  # type: ignore[attr-defined]  # each of ours has it
    at = parts.moment_of(auth, command)
    return await decide_once(parts, Key, key_ref(tenant_id, key_id), at, decision)


def _shown_once(decided: Decided[Key], secret: str) -> dict[str, Any]:
    if decided.is_repeat:
        raise ConflictError(
            "the key is there; a secret is not shown twice",
            key_id=decided.aggregate.ref.aggregate_id,
        )
    key = decided.aggregate
    return {"key": key.view(), "secret": secret, "position": key.position}


def _misfit(field: str, msg: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field}: {msg}", errors=[{"loc": ["body", field], "msg": msg}])
