"""Who asks: the port that every door verifies credentials through, and its local adapter."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import jwt

from agentos.domain.auth import (
    ROLE_SCOPES,
    USER_SCOPES,
    AuthContext,
    PolicyContext,
    Principal,
    expand_scopes,
)
from agentos.domain.errors import InvalidRequestError, TenantMismatchError, UnauthorizedError
from agentos.domain.ids import FREE_ID_PATTERN, is_named_id
from agentos.gateways.http.errors import misfit

ISSUER: Final = "agentos-local"
AUDIENCE: Final = "agentos"
ALGORITHM: Final = "HS256"
LEEWAY_S: Final = 60
MAX_CACHED: Final = 10_000
MAX_TOKEN_BYTES: Final = 16 * 1024
FREE_ID: Final = re.compile(FREE_ID_PATTERN)
SPLIT: Final = re.compile(r"[\s,]+")
READ: Final = {
    b"authorization": "authorization",
    b"x-api-key": "x-api-key",
    b"x-tenant-id": "x-tenant-id",
    b"x-principal-id": "x-principal-id",
    b"x-scopes": "x-scopes",
    b"x-subject-type": "x-subject-type",
}

Headers = Iterable[tuple[bytes, bytes]]


class Identity(Protocol):
    """Turns a request's credential into the one caller it stands for."""

    async def identify(self, headers: Headers) -> AuthContext:
        """Return the verified caller.

        Raises `UnauthorizedError` without a credential that verifies, `InvalidRequestError`
        for two at once, `TenantMismatchError` when `X-Tenant-Id` names another tenant.
        """
        ...


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that verified, and until when (epoch seconds) that holds."""

    auth: AuthContext
    until: float


class LocalIdentity:
    """Verifies tokens that this node signed, and development headers where they are allowed.

    Verified tokens are remembered until they expire: the check is on the way of every call.
    """

    def __init__(
        self,
        secret: str,
        *,
        allow_dev_headers: bool,
        region: str = "local",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._secret = secret
        self._allow_dev_headers = allow_dev_headers
        self._policy_context = PolicyContext(region=region)
        self._now = now
        self._verified: dict[str, Verified] = {}

    async def identify(self, headers: Headers) -> AuthContext:
        """Return the verified caller; as `Identity.identify`."""
        sent = _read(headers)
        bearer, key = sent.get("authorization"), sent.get("x-api-key")
        if bearer is not None and key is not None:
            raise InvalidRequestError("send Authorization or X-API-Key, not both", errors=[])
        if key is not None:
            raise UnauthorizedError("no such API key")
        if bearer is None:
            if self._allow_dev_headers and "x-tenant-id" in sent and "x-principal-id" in sent:
                return self._of_dev_headers(sent)
            raise UnauthorizedError("a credential is needed: Authorization: Bearer <token>")
        auth = self._of_bearer(bearer)
        if sent.get("x-tenant-id", auth.tenant_id) != auth.tenant_id:
            raise TenantMismatchError("X-Tenant-Id names another tenant than the credential")
        return auth

    def _of_bearer(self, header: str) -> AuthContext:
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise UnauthorizedError("only the Bearer scheme is known")
        known = self._verified.get(token)
        if known is not None and known.until > self._now():
            return known.auth
        verified = self._verify(token)
        while len(self._verified) >= MAX_CACHED:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = verified
        return verified.auth

    def _verify(self, token: str) -> Verified:
        if len(token) > MAX_TOKEN_BYTES:
            raise UnauthorizedError("the token is too long")
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as exc:
            raise UnauthorizedError(f"the token does not verify: {exc}") from exc
        return Verified(self._caller(claims), float(claims["exp"]) + LEEWAY_S)

    def _caller(self, claims: Mapping[str, Any]) -> AuthContext:
        tenant_id = claims.get("tenant_id", claims.get("tid"))
        principal_id = claims.get("principal_id", claims.get("sub"))
        if not (isinstance(tenant_id, str) and is_named_id(tenant_id)):
            raise UnauthorizedError("the token names no tenant")
        if not (isinstance(principal_id, str) and FREE_ID.match(principal_id)):
            raise UnauthorizedError("the token names no principal")
        roles = tuple(_words(claims.get("roles")))
        return AuthContext(
            tenant_id=tenant_id,
            principal=Principal(
                principal_id=principal_id,
                principal_type=_subject_type(claims, roles),
                display_name=claims.get("name") if isinstance(claims.get("name"), str) else None,
            ),
            scopes=_scopes(claims, roles),
            roles=roles,
            policy_context=self._policy_context,
        )

    def _of_dev_headers(self, sent: Mapping[str, str]) -> AuthContext:
        tenant_id, principal_id = sent["x-tenant-id"], sent["x-principal-id"]
        if not is_named_id(tenant_id):
            raise misfit(["header", "X-Tenant-Id"], "not a tenant id")
        if not FREE_ID.match(principal_id):
            raise misfit(["header", "X-Principal-Id"], "not 1-256 printable characters")
        listed = sent.get("x-scopes")
        scopes = USER_SCOPES if listed is None else expand_scopes(frozenset(_words(listed)))
        kind = sent.get("x-subject-type", "user")
        return AuthContext(
            tenant_id=tenant_id,
            principal=Principal(
                principal_id=principal_id, principal_type="user" if kind == "user" else "service"
            ),
            scopes=scopes,
            policy_context=self._policy_context,
        )


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


def _words(value: object) -> list[str]:
    if isinstance(value, str):
        return [word for word in SPLIT.split(value) if word]
    if isinstance(value, list):
        return [word for word in value if isinstance(word, str)]
    return []


def _scopes(claims: Mapping[str, Any], roles: tuple[str, ...]) -> frozenset[str]:
    """Return what the roles give, narrowed to the scopes that the token lists, if it does.

    A token without roles has the scopes that it lists, and none when it lists none.
    """
    listed = next((claims[name] for name in ("scope", "scopes", "scp") if name in claims), None)
    given = frozenset[str]().union(*(ROLE_SCOPES.get(role, frozenset()) for role in roles))
    if listed is None:
        return given
    named = expand_scopes(frozenset(_words(listed)))
    return named & given if roles else named


def _subject_type(claims: Mapping[str, Any], roles: tuple[str, ...]) -> Any:
    default = "service" if roles and roles[0] in ("tenant_service", "peer") else "user"
    kind = claims.get("principal_type", claims.get("subject_type", default))
    return "user" if kind == "user" else "service"
