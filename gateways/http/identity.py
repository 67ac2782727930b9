"""Who asks: the port that every door verifies credentials through, and its local adapter."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from agentos.domain.auth import USER_SCOPES, AuthContext, PolicyContext, Principal, expand_scopes
from agentos.domain.errors import InvalidRequestError, TenantMismatchError
from agentos.domain.ids import is_named_id
from agentos.gateways.http.credentials import UnverifiedError, Verified, words
from agentos.gateways.http.errors import misfit
from agentos.gateways.http.keys import PREFIX as KEY_PREFIX
from agentos.gateways.http.keys import ApiKeys
from agentos.gateways.http.tenants import Accounts, KnownKey
from agentos.gateways.http.throttle import Throttle
from agentos.gateways.http.tokens import FREE_ID, Issuer, Peers, Tokens

MAX_CACHED: Final = 10_000
MAX_SPELLINGS: Final = 16
NO_SCHEME: Final = "\0"  # no header can hold it, so `Authorization` never looks like a bare key
READ: Final = {
    b"authorization": "authorization",
    b"x-api-key": "x-api-key",
    b"x-tenant-id": "x-tenant-id",
    b"x-principal-id": "x-principal-id",
    b"x-scopes": "x-scopes",
    b"x-subject-type": "x-subject-type",
    b"x-stack-id": "x-stack-id",
}

Headers = Iterable[tuple[bytes, bytes]]


class Identity(Protocol):
    """Turns a request's credential into the one caller it stands for."""

    async def identify(self, headers: Headers, source: str = "") -> AuthContext:
        """Return the verified caller; `source` is the address that asks.

        Raises `UnauthorizedError` without a credential that verifies, `RateLimitedError` when
        the address failed too often, `InvalidRequestError` for two at once,
        `TenantMismatchError` when `X-Tenant-Id` names another tenant, and
        `DependencyUnavailableError` when nobody can say whether the credential verifies.
        """
        ...


class LocalIdentity:
    """Verifies tokens and API keys, and development headers where they are allowed.

    Tokens are the node's own, and `oidc`'s where there is one; keys are those of `accounts`.
    What verified is remembered until it ends: the check is on the way of every call.
    """

    def __init__(
        self,
        secret: str,
        *,
        allow_dev_headers: bool,
        region: str = "local",
        oidc: Issuer | None = None,
        accounts: Accounts | None = None,
        throttle: Throttle | None = None,
        peers: Peers | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._allow_dev_headers = allow_dev_headers
        self._policy_context = PolicyContext(region=region)
        self._throttle = throttle or Throttle()
        self._now = now
        self._verified: dict[str, Verified] = {}
        self._tokens = Tokens(secret, self._policy_context, oidc=oidc, now=now)
        self._peers: Peers | None = None
        if peers is not None:
            self.trust(peers)
        self._keys = None if accounts is None else ApiKeys(accounts, self._policy_context, now)
        self._accounts = accounts
        self._used: dict[str, float] = {}
        if accounts is not None:
            self._used = accounts.used
            accounts.on_key.append(self._forget)

    def trust(self, peers: Peers) -> None:
        """Verify what peers sign, too."""
        self._peers = self._tokens.peers = peers

    async def identify(self, headers: Headers, source: str = "") -> AuthContext:
        """Return the verified caller; as `Identity.identify`."""
        sent = _read(headers)
        header = sent.get("authorization")
        if header is None or "x-api-key" in sent:
            header = _key(sent)
            if header is None:
                return self._of_dev_headers(sent)
        known, now = self._verified.get(header), self._now()
        if known is None or known.until <= now:
            known = await self._verify(header, source)
        if known.key_id is not None:
            self._used[known.key_id] = now
        auth = known.auth
        if sent.get("x-tenant-id", auth.tenant_id) != auth.tenant_id:
            raise TenantMismatchError("X-Tenant-Id names another tenant than the credential")
        return auth

    async def _verify(self, header: str, source: str) -> Verified:
        """Verify what is not known yet, unless its address has failed too often of late."""
        self._throttle.check(source)
        try:
            credential = _credential(header)
            if not credential.startswith(KEY_PREFIX):
                verified = await self._tokens.verify(credential)
            elif self._keys is not None:
                verified = await self._keys.verify(credential)
            else:
                raise UnverifiedError("no such API key", "unknown_key")
        except UnverifiedError:
            self._throttle.failed(source)
            raise
        if verified.until <= self._now():
            return verified  # good for this once
        if verified.key_id is not None and self._accounts is not None:
            self._note_spelling(self._accounts.keys[verified.key_id], header)
        while len(self._verified) >= MAX_CACHED:
            del self._verified[next(iter(self._verified))]
        self._verified[header] = verified
        return verified

    def _note_spelling(self, known: KnownKey, header: str) -> None:
        if len(known.headers) >= MAX_SPELLINGS:
            self._forget(known)
        known.headers.add(header)

    def _forget(self, known: KnownKey) -> None:
        """Something happened to a key: what it was sent as is to be verified again."""
        while known.headers:
            self._verified.pop(known.headers.pop(), None)

    def _of_dev_headers(self, sent: Mapping[str, str]) -> AuthContext:
        tenant_id, principal_id = sent.get("x-tenant-id"), sent.get("x-principal-id")
        if not self._allow_dev_headers or tenant_id is None or principal_id is None:
            raise UnverifiedError(
                "a credential is needed: Authorization: Bearer <token>", "no_credential"
            )
        if not is_named_id(tenant_id):
            raise misfit(["header", "X-Tenant-Id"], "not a tenant id")
        if not FREE_ID.match(principal_id):
            raise misfit(["header", "X-Principal-Id"], "not 1-256 printable characters")
        listed = sent.get("x-scopes")
        scopes = USER_SCOPES if listed is None else expand_scopes(frozenset(words(listed)))
        kind = sent.get("x-subject-type", "user")
        auth = AuthContext(
            tenant_id=tenant_id,
            principal=Principal(
                principal_id=principal_id, principal_type="user" if kind == "user" else "service"
            ),
            scopes=scopes,
            policy_context=self._policy_context,
        )
        stack_id = sent.get("x-stack-id")
        if stack_id is None or self._peers is None:
            return auth
        if not is_named_id(stack_id, "stk"):
            raise misfit(["header", "X-Stack-Id"], "not a stack id")
        return self._peers.of_headers(stack_id, auth)


def _read(headers: Headers) -> dict[str, str]:
    """Return the headers that say who asks; one that came twice is an error."""
    found: dict[str, str] = {}
    for name, value in headers:
        key = READ.get(name)
        if key is None:
            continue
        if key in found:
            raise misfit(["header", key], "sent more than once")
        try:
            found[key] = value.decode()
        except UnicodeDecodeError as exc:
            raise misfit(["header", key], "not UTF-8") from exc
    return found


def _key(sent: Mapping[str, str]) -> str | None:
    """Return the API key of `X-API-Key`, marked as such, or `None` without any credential."""
    key = sent.get("x-api-key")
    if key is None:
        return None
    if "authorization" in sent:
        raise InvalidRequestError("send Authorization or X-API-Key, not both", errors=[])
    if not key.startswith(KEY_PREFIX):
        raise UnverifiedError("no such API key", "malformed_key")
    return NO_SCHEME + key


def _credential(header: str) -> str:
    """Return the token or key in an `Authorization` header, or what `_key` marked."""
    if header.startswith(NO_SCHEME):
        return header.removeprefix(NO_SCHEME)
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise UnverifiedError("only the Bearer scheme is known", "no_bearer")
    return token
