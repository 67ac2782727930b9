"""What a peer may do here: its token, its certificate, its tenants, its rights, its rates."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import jwt
from starlette.types import Scope

from agentos.domain.audit.chain import NODE_TENANT
from agentos.domain.auth import USER_SCOPES, AuthContext, PolicyContext, Principal
from agentos.domain.envelope import read_line
from agentos.domain.errors import ForbiddenError, NotFoundError, RateLimitedError
from agentos.domain.federation.peer import PeerEntry
from agentos.domain.ids import is_named_id
from agentos.domain.ports import EventLog
from agentos.domain.run.run import run_ref
from agentos.federation.book import PeerBook
from agentos.federation.certificate import stack_ids_of
from agentos.federation.parts import Ports
from agentos.gateways.http.credentials import UnverifiedError, Verified, words
from agentos.gateways.http.tokens import BROKEN, FREE_ID, SigningKeys

LEEWAY_S: Final = 5
LONGEST_S: Final = 300
SEEN: Final = 200_000
CACHED: Final = 10_000
KEY_CHECK: Final = ("exp", "iss", "aud", "iat", "jti")
OF_A_RUN: Final = frozenset({"runs:create", "runs:read", "runs:cancel", "runs:forward"})
APPROVE: Final = "tools:approve"
ABOUT_US: Final = frozenset(
    {
        "/v1/federation/peer",
        "/v1/peer/info",
        "/v1/federation/peer/capabilities",
        "/v1/peer/capabilities",
    }
)
ALLOWED: Final = ABOUT_US | {
    "/v1/agents/{agent_id}/runs",
    "/v1/runs/{run_id}",
    "/v1/runs/{run_id}/wait",
    "/v1/runs/{run_id}/events",
    "/v1/runs/{run_id}:cancel",
    "/v1/runs/{run_id}/approvals",
    "/v1/runs/{run_id}/approvals/{approval_id}",
    "/v1/federation/runs:forward",
    "/v1/federation/events:ingest",
}
MAKE_RUNS: Final = frozenset({"/v1/agents/{agent_id}/runs", "/v1/federation/runs:forward"})


def allowed_scopes(claimed: frozenset[str], entry: PeerEntry | None) -> frozenset[str]:
    """Return what a peer's call may do of what it claims: a user's scopes at most.

    `runs:forward` stands for create, read and cancel of the runs that it forwards. To approve a
    tool call of these is the caller's own right, as its node says.
    """
    found = claimed & (USER_SCOPES | {APPROVE, "federation:peer"})
    if entry is not None and "runs:forward" not in entry.rights:
        return found & {"federation:peer"}
    return found | OF_A_RUN if "runs:forward" in found else found - OF_A_RUN - {APPROVE}


class PeerTokens:
    """Verifies what peers sign. A token is good once: its id is remembered until it ends."""

    def __init__(
        self, ports: Ports, book: PeerBook, *, now: Callable[[], float] = time.time
    ) -> None:
        self._stack_id = ports.local.info.stack_id
        self._region = ports.local.info.region
        self._keys_of = ports.peering.keys_of
        self._book = book
        self._now = now
        self._began = now()
        self._keys: dict[str, tuple[PeerEntry, SigningKeys]] = {}
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict()

    def knows(self, issuer: str) -> bool:
        """Whether tokens of that issuer are a peer's, and ours to verify."""
        known = self._book.get(issuer)
        return known is not None and known.entry.is_keyed

    async def verify(self, token: str, issuer: str, kid: str | None) -> Verified:
        """Return whom a peer's token stands for; `UnverifiedError`, `DependencyUnavailableError`.

        A token from before this process began is refused too: its id may have been seen by the
        process before. The peer sends another one.
        """
        entry = self._entry(issuer)
        key = await self._signing_keys(entry).find(kid)
        if key is None:
            raise UnverifiedError("the token does not verify: unknown key", "unknown_kid")
        claims = self._decode(token, key.key, key.algorithm, issuer)
        self._use_once(issuer, claims)
        return Verified(self._caller(entry, claims), 0.0)

    def of_headers(self, stack_id: str, auth: AuthContext) -> AuthContext:
        """Return the caller of development headers that name the stack they come through."""
        known = self._book.get(stack_id)
        scopes = allowed_scopes(auth.scopes, known.entry if known else None)
        return auth.model_copy(update={"stack_id": stack_id, "scopes": scopes})

    def _entry(self, issuer: str) -> PeerEntry:
        known = self._book.get(issuer)
        if known is None:
            raise UnverifiedError("the token does not verify: no such peer", "wrong_issuer")
        return known.entry

    def _signing_keys(self, entry: PeerEntry) -> SigningKeys:
        held = self._keys.get(entry.stack_id)
        if held is None or held[0] != entry:
            held = self._keys[entry.stack_id] = (entry, self._keys_of(entry))
        return held[1]

    def _decode(self, token: str, key: Any, algorithm: str, issuer: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=issuer,
                audience=self._stack_id,
                leeway=LEEWAY_S,
                options={"require": list(KEY_CHECK)},
            )
        except jwt.InvalidAudienceError as exc:
            raise UnverifiedError("the token is for another stack", "wrong_audience") from exc
        except jwt.ExpiredSignatureError as exc:
            raise UnverifiedError("the token has expired", "expired_token") from exc
        except BROKEN as exc:
            raise UnverifiedError("the peer's token does not verify", "invalid_token") from exc
        return claims

    def _use_once(self, issuer: str, claims: Mapping[str, Any]) -> None:
        now, until = self._now(), float(claims["exp"]) + LEEWAY_S
        if until - now > LONGEST_S:
            raise UnverifiedError("the token lives too long", "token_lives_too_long")
        if float(claims["iat"]) < int(self._began):
            raise UnverifiedError("the token is from before this node began", "stale_token")
        while self._seen and (next(iter(self._seen.values())) < now or len(self._seen) >= SEEN):
            self._seen.popitem(last=False)
        place = (issuer, str(claims["jti"]))
        if place in self._seen:
            raise UnverifiedError("the token was used before", "replayed_token")
        self._seen[place] = until

    def _caller(self, entry: PeerEntry, claims: Mapping[str, Any]) -> AuthContext:
        tenant_id, subject = claims.get("tenant_id"), claims.get("sub")
        if not (isinstance(tenant_id, str) and is_named_id(tenant_id)):
            raise UnverifiedError("the token names no tenant", "no_tenant")
        if not (isinstance(subject, str) and FREE_ID.match(subject)):
            raise UnverifiedError("the token names no principal", "no_principal")
        kind = "user" if claims.get("principal_type", "user") == "user" else "service"
        return AuthContext(
            tenant_id=tenant_id,
            principal=Principal.model_validate({"principal_id": subject, "principal_type": kind}),
            scopes=allowed_scopes(frozenset(words(claims.get("scopes"))), entry),
            policy_context=PolicyContext(region=self._region),
            stack_id=entry.stack_id,
        )


class PeerGate:
    """The last question before an endpoint, to callers that come through a peer."""

    def __init__(self, ports: Ports, book: PeerBook) -> None:
        self._log: EventLog = ports.log
        self._own = ports.local.info.stack_id
        self._require_mtls = ports.peering.require_mtls
        self._book = book
        self._origins: OrderedDict[tuple[str, str], str | None] = OrderedDict()
        self._rates: dict[tuple[str, str], Bucket] = {}

    async def admit(self, scope: Scope, route: str, auth: AuthContext) -> None:
        """Return if the caller may go on: the certificate, the tenant, the route, the run.

        Raises `ForbiddenError`, `RateLimitedError`, and `NotFoundError` for a run that did not
        come through that peer.
        """
        self._check_certificate(scope, auth)
        if auth.stack_id is None:
            return
        if auth.tenant_id == NODE_TENANT and route not in ABOUT_US:
            raise ForbiddenError("a node's own credential only asks about this node")
        if route not in ALLOWED:
            raise ForbiddenError("this is not for peers", stack_id=auth.stack_id)
        known = self._book.get(auth.stack_id)
        if known is not None:
            self._check_entry(known.entry, route, auth)
        run_id = scope.get("path_params", {}).get("run_id")
        if run_id is not None and await self.origin(auth.tenant_id, run_id) != auth.stack_id:
            raise NotFoundError("no such run")

    def _check_certificate(self, scope: Scope, auth: AuthContext) -> None:
        if scope.get("scheme") != "https":
            if auth.stack_id is not None and self._require_mtls:
                raise ForbiddenError("peers come in with a certificate, over the federation door")
            return
        shown = stack_ids_of(scope)
        if self._own in shown or (not shown and auth.stack_id is None):
            return
        if auth.stack_id not in shown:
            raise ForbiddenError("the certificate is another stack's than the credential")

    def _check_entry(self, entry: PeerEntry, route: str, auth: AuthContext) -> None:
        if auth.tenant_id != NODE_TENANT and not entry.serves(auth.tenant_id):
            raise ForbiddenError("the peer may not act for this tenant", stack_id=entry.stack_id)
        limits = entry.limits
        self.spend(entry.stack_id, "requests", limits.requests_per_minute)
        if route in MAKE_RUNS:
            self.spend(entry.stack_id, "runs", limits.runs_per_minute)

    def spend(self, stack_id: str, what: str, a_minute: int | None, amount: int = 1) -> None:
        """Take from a peer's rate; `RateLimitedError` when it is spent."""
        if a_minute is None:
            return
        bucket = self._rates.get((stack_id, what))
        if bucket is None or bucket.a_minute != a_minute:
            bucket = self._rates[stack_id, what] = Bucket(a_minute)
        if (wait_s := bucket.take(amount)) > 0:
            raise RateLimitedError(
                f"the peer's {what} a minute are spent",
                stack_id=stack_id,
                limit=a_minute,
                retry_after_ms=round(wait_s * 1000) + 1,
            )

    async def origin(self, tenant_id: str, run_id: str) -> str | None:
        """Return the stack that a run came through; `None` for one of here, or none."""
        if not is_named_id(run_id):
            return None
        place = (tenant_id, run_id)
        if place not in self._origins:
            records = await self._log.read(run_ref(tenant_id, run_id))
            first = next((record for record in records if record.types), None)
            if first is None:
                return None
            payload = read_line(first.lines()[0])["payload"]
            self._origins[place] = payload.get("origin_stack_id")
            if len(self._origins) > CACHED:
                self._origins.popitem(last=False)
        return self._origins[place]


class Bucket:
    """So many a minute, evenly, with a minute's worth at once."""

    def __init__(self, a_minute: int) -> None:
        self.a_minute = a_minute
        self._left = float(a_minute)
        self._at = asyncio.get_running_loop().time()

    def take(self, amount: int) -> float:
        """Take so many; returns 0, or the seconds until there are enough."""
        now = asyncio.get_running_loop().time()
        grown = self._left + (now - self._at) * self.a_minute / 60
        self._left, self._at = min(float(self.a_minute), grown), now
        if self._left >= amount:
            self._left -= amount
            return 0.0
        return (amount - self._left) * 60 / self.a_minute if self.a_minute else 60.0
