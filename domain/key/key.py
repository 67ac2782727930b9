"""A key: issued, rotated with an overlap, revoked at once."""

import hashlib
import hmac
import re
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.auth import Principal
from agentos.domain.envelope import Event, Payload, by_type, is_none
from agentos.domain.errors import ConflictError, InvalidStateTransitionError, NotFoundError
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339

KeyKind = Literal["api", "subscriber"]
SECRET: Final = re.compile(r"^aos_([0-9A-HJKMNP-TV-Z]{26})_([A-Za-z0-9_-]{43})\Z")


class Grant(BaseModel):
    """Whom a key identifies, and what it may do."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: KeyKind = "api"
    name: str | None = Field(default=None, max_length=256, exclude_if=is_none)
    principal: Principal
    roles: tuple[str, ...] = Field(max_length=10)
    scopes: tuple[str, ...] = Field(max_length=100)
    expires_at: int | None = Field(default=None, exclude_if=is_none)


class KeyIssued(Payload):
    """The key exists; its secret was shown once."""

    TYPE: ClassVar = "agentos.key.issued"
    status: Literal["active"] = "active"
    grant: Grant
    prefix: str
    secret_hash: str


class KeyRotated(Payload):
    """The key has a new secret; the old one holds until `old_until` (epoch ms)."""

    TYPE: ClassVar = "agentos.key.rotated"
    prefix: str
    secret_hash: str
    old_until: int


class KeyRevoked(Payload):
    """The key identifies nobody any more."""

    TYPE: ClassVar = "agentos.key.revoked"
    status: Literal["revoked"] = "revoked"


class Key(Aggregate):
    """A key as its events tell it."""

    KIND: ClassVar = "key"
    PAYLOADS: ClassVar = by_type(KeyIssued, KeyRotated, KeyRevoked)
    grant: Grant

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.status: str | None = None
        self.created_at = 0
        self.prefix = ""
        self.hashes: tuple[str, ...] = ()
        self.old_until = 0

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        payload = event.payload
        if isinstance(payload, KeyIssued):
            self.status = payload.status
            self.created_at = event.time
            self.grant = payload.grant
            self.prefix = payload.prefix
            self.hashes = (payload.secret_hash,)
        elif isinstance(payload, KeyRotated):
            self.prefix = payload.prefix
            self.hashes = (payload.secret_hash, *self.hashes[:1])
            self.old_until = payload.old_until
        elif isinstance(payload, KeyRevoked):
            self.status = payload.status

    def accepts(self, secret_hash: str, now_ms: int) -> bool:
        """Whether a secret with that hash identifies the key's principal now."""
        if self.status != "active" or self.has_expired(now_ms):
            return False
        current, *old = self.hashes
        if hmac.compare_digest(current, secret_hash):
            return True
        return now_ms < self.old_until and any(hmac.compare_digest(o, secret_hash) for o in old)

    def has_expired(self, now_ms: int) -> bool:
        """Whether the key's time is over."""
        return self.grant.expires_at is not None and now_ms >= self.grant.expires_at

    def issue(self, grant: Grant, prefix: str, secret_hash: str, at: Moment) -> list[Event]:
        """Decide that the key begins; `ConflictError` when its id is taken."""
        if self.status is not None:
            raise ConflictError("the key id is taken")
        payload = KeyIssued(grant=grant, prefix=prefix, secret_hash=secret_hash)
        return [next_event(self, payload, at)]

    def rotate(self, prefix: str, secret_hash: str, overlap_ms: int, at: Moment) -> list[Event]:
        """Decide a new secret; `InvalidStateTransitionError` for a revoked key."""
        self.require_known()
        if self.status != "active":
            raise InvalidStateTransitionError("the key is revoked", status=self.status)
        old_until = self.later(at.now_ms) + overlap_ms
        payload = KeyRotated(prefix=prefix, secret_hash=secret_hash, old_until=old_until)
        return [next_event(self, payload, at)]

    def revoke(self, at: Moment) -> list[Event]:
        """Decide that the key identifies nobody; it stands once."""
        self.require_known()
        return [next_event(self, KeyRevoked(), at)] if self.status == "active" else []

    def require_known(self) -> None:
        """Raise `NotFoundError` unless the key was issued."""
        if self.status is None:
            raise NotFoundError("no such key")

    def view(self) -> dict[str, Any]:
        """Return the contract's key object; never a secret or a hash."""
        grant = self.grant
        view: dict[str, Any] = {
            "key_id": self.ref.aggregate_id,
            "kind": grant.kind,
            "status": self.status,
            "prefix": self.prefix,
            "scopes": list(grant.scopes),
            "roles": list(grant.roles),
            "principal": grant.principal.model_dump(),
            "created_at": rfc3339(self.created_at),
        }
        if grant.name is not None:
            view["name"] = grant.name
        if grant.expires_at is not None:
            view["expires_at"] = rfc3339(grant.expires_at)
        return view


def make_secret(key_id: str, random_text: str) -> str:
    """Return the whole secret of a key: what the caller sends. `random_text` has 43 characters."""
    return f"aos_{key_id.removeprefix('key_')}_{random_text}"


def split_secret(secret: str) -> tuple[str, str] | None:
    """Return the key id in a secret and the secret's hash; `None` when it is no key of ours."""
    found = SECRET.match(secret)
    return None if found is None else (f"key_{found[1]}", hash_secret(secret))


def hash_secret(secret: str) -> str:
    """Return what is kept of a secret. It has 256 bits of its own, so no salt or work is due."""
    return hashlib.sha256(secret.encode()).hexdigest()


def prefix_of(secret: str) -> str:
    """Return the part of a secret that people may see, to tell keys apart."""
    return secret[:16]


def key_ref(tenant_id: str, key_id: str) -> StreamRef:
    """Return where a key's events are."""
    return StreamRef(tenant_id, Key.KIND, key_id)
