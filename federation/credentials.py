"""How this node tells a peer who asks: a signed token of one use, or, in dev, plain headers."""

import time
from collections.abc import Callable, Mapping, Set
from typing import Final

from agentos.domain.audit.chain import NODE_TENANT
from agentos.domain.auth import USER_SCOPES, AuthContext, Principal
from agentos.domain.errors import ForwardFailedError
from agentos.domain.federation.peer import PeerEntry
from agentos.domain.ports import NewId
from agentos.federation.parts import Signer

LIFETIME_S: Final = 60
FORWARD: Final = "runs:forward"
PEER: Final = "federation:peer"


class Credentials:
    """Makes the headers of each call. The caller's own credential never leaves this node."""

    def __init__(
        self,
        stack_id: str,
        signer: Signer,
        new_id: NewId,
        *,
        is_prod: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._stack_id = stack_id
        self._signer = signer
        self._new_id = new_id
        self._is_prod = is_prod
        self._now = now

    def of_caller(
        self, peer: PeerEntry, auth: AuthContext, traceparent: str, *, more: Set[str] = frozenset()
    ) -> dict[str, str]:
        """Return the headers of a call for a tenant's principal: its user's scopes.

        Of its others only `more`, which this one call needs.
        """
        scopes = (auth.scopes & (USER_SCOPES | more)) | {FORWARD}
        return self._headers(peer, auth.tenant_id, auth.principal, scopes, traceparent)

    def of_node(self, peer: PeerEntry, traceparent: str) -> dict[str, str]:
        """Return the headers of a call on the node's own behalf: it may ask who the peer is."""
        node = Principal(principal_id=self._stack_id, principal_type="service")
        return self._headers(peer, NODE_TENANT, node, frozenset({PEER}), traceparent)

    def _headers(
        self,
        peer: PeerEntry,
        tenant_id: str,
        principal: Principal,
        scopes: frozenset[str],
        traceparent: str,
    ) -> dict[str, str]:
        trace = {"traceparent": traceparent} if traceparent else {}
        if not peer.is_keyed:
            return trace | self._plain(peer, tenant_id, principal, scopes)
        now = int(self._now())
        claims: Mapping[str, object] = {
            "iss": self._stack_id,
            "aud": peer.stack_id,
            "sub": principal.principal_id,
            "principal_type": principal.principal_type,
            "tenant_id": tenant_id,
            "scopes": sorted(scopes),
            "iat": now,
            "exp": now + LIFETIME_S,
            "jti": self._new_id("jti"),
            **trace,
        }
        return trace | {"Authorization": f"Bearer {self._signer.sign(claims)}"}

    def _plain(
        self, peer: PeerEntry, tenant_id: str, principal: Principal, scopes: frozenset[str]
    ) -> dict[str, str]:
        if self._is_prod:
            raise ForwardFailedError(
                "prod sends no identity without a key", stack_id=peer.stack_id, retryable=False
            )
        return {
            "X-Tenant-Id": tenant_id,
            "X-Principal-Id": principal.principal_id,
            "X-Subject-Type": principal.principal_type,
            "X-Scopes": " ".join(sorted(scopes)),
            "X-Stack-Id": self._stack_id,
        }
