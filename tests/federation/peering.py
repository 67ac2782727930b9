"""The adapters of federation for gateways under test: real HTTP, keys in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentos.domain.federation.peer import Endpoints, PeerEntry, PeerInfo
from agentos.federation.parts import Peering, Retries
from agentos.infra.federation.client import HttpPeers
from agentos.infra.federation.keys import ALGORITHM, key_id, public_key
from agentos.infra.federation.peer_keys import PeerKeys
from agentos.infra.settings import Settings

QUICK = Retries(attempts=3, base_s=0.01, call_s=2.0)


class MemoryKeys:
    """Signing keys of one node, in memory; as `KeyRing`."""

    def __init__(self) -> None:
        self.keys = [Ed25519PrivateKey.generate()]

    def rotate(self) -> None:
        """Sign with a new key from now on, and still publish the old one."""
        self.keys.append(Ed25519PrivateKey.generate())

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a token."""
        key = self.keys[-1]
        return jwt.encode(dict(claims), key, ALGORITHM, headers={"kid": key_id(key)})

    def key_set(self) -> dict[str, Any]:
        """Return the public keys."""
        return {"keys": [public_key(key_id(key), key) for key in self.keys]}


def info(stack_id: str, urls: Sequence[str], region: str = "local") -> PeerInfo:
    """Return who a node with these doors is."""
    endpoints = Endpoints(orchestrator=urls[0], model_policy=urls[1], federation=urls[2])
    return PeerInfo(stack_id=stack_id, region=region, endpoints=endpoints)


def entry(stack_id: str, urls: Sequence[str], **more: Any) -> PeerEntry:
    """Return a node as one of its peers knows it."""
    found = info(stack_id, urls, more.pop("region", "local")).model_dump(by_alias=True)
    return PeerEntry.model_validate({**found, **more})


def peering(
    stack_id: str,
    urls: Sequence[str],
    entries: Sequence[PeerEntry] = (),
    *,
    region: str = "local",
    signer: MemoryKeys | None = None,
    settings: Mapping[str, str] | None = None,
    **more: Any,
) -> Peering:
    """Return the adapters of a node."""
    client = HttpPeers(Settings.load(settings))
    return Peering(
        local=info(stack_id, urls, region),
        entries=tuple(entries),
        client=client,
        signer=signer or MemoryKeys(),
        keys_of=lambda peer: PeerKeys(client, peer),
        retries=more.pop("retries", QUICK),
        **more,
    )


def alone(urls: Sequence[str]) -> Peering:
    """Return the adapters of a node without peers."""
    return peering("stk_test", urls)
