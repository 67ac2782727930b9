"""Signed checkpoints of a chain, and the public keys that they are checked with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.audit.canonical import canonical
from agentos.domain.audit.chain import NODE_TENANT, AuditRecorded
from agentos.domain.audit.merkle import root
from agentos.domain.envelope import Event, Payload, by_type
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339

LONGEST: Final = 1_000
"""Records that one checkpoint covers at most."""

CHECKPOINTS: Final = "checkpoints"
STATEMENT: Final = b"agentos.audit.checkpoint.v1\n"
Verify = Callable[[str, bytes, str], bool]
"""`(public key, message, signature)`, key and signature in hex: whether it holds."""


class AuditCheckpointed(Payload):
    """The records `first` to `sequence` of the tenant's chain, and all before, are these.

    `hash` is the last one's, `root` the Merkle root over their hashes; `signature` (Ed25519,
    hex) covers everything else. `first` follows the checkpoint before.
    """

    TYPE: ClassVar = "agentos.audit.checkpointed"
    tenant_id: str
    first: int
    sequence: int
    hash: str
    root: str
    time: str
    key_id: str
    signature: str


class AuditKeyPublished(Payload):
    """From now on this node may sign checkpoints with the key; a key stays known for ever."""

    TYPE: ClassVar = "agentos.audit.key_published"
    key_id: str
    algorithm: str = "Ed25519"
    public_key: str


class Signer(Protocol):
    """A private key that signs and is never shown."""

    @property
    def key_id(self) -> str:
        """Return the name that follows from the public key."""
        ...

    @property
    def public_key(self) -> str:
        """Return the public key (32 bytes in hex)."""
        ...

    def sign(self, message: bytes) -> str:
        """Return the Ed25519 signature of a message, in hex."""
        ...


class AuditCheckpoints(Aggregate):
    """The newest checkpoint of one chain: all that the next depends on."""

    KIND: ClassVar = "audit"
    PAYLOADS: ClassVar = by_type(AuditRecorded, AuditCheckpointed, AuditKeyPublished)

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.covered = 0

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        if isinstance(event.payload, AuditCheckpointed):
            self.covered = event.payload.sequence

    def sign(self, hashes: Sequence[str], signer: Signer, at: Moment) -> list[Event]:
        """Return the event that covers the records with those hashes, the next of the chain."""
        body = {
            "tenant_id": self.ref.tenant_id,
            "first": self.covered + 1,
            "sequence": self.covered + len(hashes),
            "hash": hashes[-1],
            "root": root(hashes),
            "time": rfc3339(self.later(at.now_ms)),
            "key_id": signer.key_id,
        }
        signed = AuditCheckpointed(**body, signature=signer.sign(statement(body)))
        event = next_event(self, signed, at)
        self.evolve(event)
        return [event]


class AuditKeys(Aggregate):
    """The public keys of a node's checkpoints, every one that it ever had."""

    KIND: ClassVar = "audit"
    PAYLOADS: ClassVar = AuditCheckpoints.PAYLOADS

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.keys: dict[str, str] = {}

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        if isinstance(event.payload, AuditKeyPublished):
            self.keys[event.payload.key_id] = event.payload.public_key

    def publish(self, signer: Signer, at: Moment) -> list[Event]:
        """Return the event that makes a key known; none when it is."""
        if signer.key_id in self.keys:
            return []
        key = AuditKeyPublished(key_id=signer.key_id, public_key=signer.public_key)
        event = next_event(self, key, at)
        self.evolve(event)
        return [event]


def statement(checkpoint: Mapping[str, Any]) -> bytes:
    """Return what a checkpoint's signature covers: all of it but the signature."""
    body = {name: value for name, value in checkpoint.items() if name != "signature"}
    return STATEMENT + canonical(body)


def checkpoints_ref(tenant_id: str) -> StreamRef:
    """Return where the checkpoints of a tenant's chain are."""
    return StreamRef(tenant_id, AuditCheckpoints.KIND, CHECKPOINTS)


def keys_ref() -> StreamRef:
    """Return where the node's public keys are."""
    return StreamRef(NODE_TENANT, AuditKeys.KIND, "keys")
