"""JWTs: the node's own by its secret, an issuer's by its public keys. Algorithms are pinned."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import jwt

from agentos.domain.auth import RUNTIME_ROLE, AuthContext, PolicyContext, Principal
from agentos.domain.ids import FREE_ID_PATTERN, is_named_id
from agentos.gateways.http.credentials import UnverifiedError, Verified, claimed_scopes, words

ISSUER: Final = "agentos-local"
RUNTIME_ISSUER: Final = "agentos-runtime"
AUDIENCE: Final = "agentos"
RUNTIME_AUDIENCE: Final = "agentos-runtime"
ALGORITHM: Final = "HS256"
LEEWAY_S: Final = 60
MAX_TOKEN_BYTES: Final = 16 * 1024
FREE_ID: Final = re.compile(FREE_ID_PATTERN)
REQUIRED: Final = ("exp", "iss", "aud")
# What a hostile token makes the parser raise: RecursionError is a nest of brackets, Overflow an
# `exp` of infinity.
BROKEN: Final = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (jwt.ExpiredSignatureError, "expired_token"),
    (jwt.ImmatureSignatureError, "token_not_valid_yet"),
    (jwt.InvalidAudienceError, "wrong_audience"),
    (jwt.InvalidIssuerError, "wrong_issuer"),
    (jwt.InvalidAlgorithmError, "wrong_algorithm"),
    (jwt.InvalidSignatureError, "bad_signature"),
)


class SigningKey(Protocol):
    """A public key and the only algorithm that it is used with, by its type."""

    @property
    def algorithm(self) -> str:
        """`RS256`, `ES256` or `EdDSA`."""
        ...

    @property
    def key(self) -> Any:
        """The key as the JWT library takes it."""
        ...


class SigningKeys(Protocol):
    """The keys that an issuer signs with at present."""

    async def find(self, kid: str | None) -> SigningKey | None:
        """Return the key of that id, asking the issuer about an id that is not known.

        Without an id: the issuer's only key. Raises `DependencyUnavailableError` with
        `dependency="oidc"` when the key is not known and the issuer cannot be asked.
        """
        ...


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer whose tokens are accepted. They are verified again after `recheck_s` seconds."""

    issuer: str
    audience: str
    keys: SigningKeys
    recheck_s: float = 300.0


class Peers(Protocol):
    """The nodes whose signatures count here."""

    def knows(self, issuer: str) -> bool:
        """Whether an issuer is a peer that signs its tokens."""
        ...

    async def verify(self, token: str, issuer: str, kid: str | None) -> Verified:
        """Return whom a peer's token stands for, this once; `UnverifiedError` if it fails."""
        ...

    def of_headers(self, stack_id: str, auth: AuthContext) -> AuthContext:
        """Return the caller of development headers that name the stack they come through."""
        ...


class Tokens:
    """Turns a JWT into the caller it stands for."""

    def __init__(
        self,
        secret: str,
        policy_context: PolicyContext,
        *,
        oidc: Issuer | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._secret = secret
        self._policy_context = policy_context
        self._oidc = oidc
        self._now = now
        self.peers: Peers | None = None

    async def verify(self, token: str) -> Verified:
        """Return whom the token identifies, and until when.

        The token's own `iss` only chooses who has to have signed it; then everything in it is
        checked against that one. Raises `UnverifiedError`, `DependencyUnavailableError`.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise UnverifiedError("the token is too long", "malformed_token")
        issuer, kid = _peek(token)
        if self._oidc is not None and issuer == self._oidc.issuer:
            return await self._verify_foreign(token, kid, self._oidc)
        if self.peers is not None and isinstance(issuer, str) and self.peers.knows(issuer):
            return await self.peers.verify(token, issuer, kid)
        if not self._secret or issuer not in (ISSUER, RUNTIME_ISSUER):
            raise UnverifiedError("the token does not verify: another issuer", "wrong_issuer")
        audience = RUNTIME_AUDIENCE if issuer == RUNTIME_ISSUER else AUDIENCE
        claims = _decode(token, self._secret, ALGORITHM, str(issuer), audience)
        caller = self._of_run(claims) if issuer == RUNTIME_ISSUER else self._caller(claims)
        return Verified(caller, float(claims["exp"]) + LEEWAY_S)

    async def _verify_foreign(self, token: str, kid: str | None, oidc: Issuer) -> Verified:
        key = await oidc.keys.find(kid)
        if key is None:
            raise UnverifiedError("the token does not verify: unknown key", "unknown_kid")
        claims = _decode(token, key.key, key.algorithm, oidc.issuer, oidc.audience)
        until = min(float(claims["exp"]) + LEEWAY_S, self._now() + oidc.recheck_s)
        return Verified(self._caller(claims), until)

    def _of_run(self, claims: Mapping[str, Any]) -> AuthContext:
        """Return a run's own context, as the executor that signed the token has it."""
        try:
            auth = AuthContext.model_validate(claims.get("auth"))
        except ValueError as exc:
            raise UnverifiedError("the token holds no context", "invalid_token") from exc
        return auth.model_copy(update={"roles": (RUNTIME_ROLE,)})

    def _caller(self, claims: Mapping[str, Any]) -> AuthContext:
        tenant_id = claims.get("tenant_id", claims.get("tid"))
        principal_id = claims.get("principal_id", claims.get("sub"))
        if not (isinstance(tenant_id, str) and is_named_id(tenant_id)):
            raise UnverifiedError("the token names no tenant", "no_tenant")
        if not (isinstance(principal_id, str) and FREE_ID.match(principal_id)):
            raise UnverifiedError("the token names no principal", "no_principal")
        roles = tuple(role for role in words(claims.get("roles")) if role != RUNTIME_ROLE)
        return AuthContext(
            tenant_id=tenant_id,
            principal=Principal(
                principal_id=principal_id,
                principal_type=_subject_type(claims, roles),
                display_name=claims.get("name") if isinstance(claims.get("name"), str) else None,
            ),
            scopes=claimed_scopes(claims, roles),
            roles=roles,
            policy_context=self._policy_context,
        )


def _peek(token: str) -> tuple[object, str | None]:
    """Return the issuer and key id that a token claims. Nothing of it is believed yet."""
    try:
        found = jwt.decode_complete(token, options={"verify_signature": False})
    except BROKEN as exc:
        raise _unverified(exc, "malformed_token") from exc
    return found["payload"].get("iss"), found["header"].get("kid")


def _decode(token: str, key: Any, algorithm: str, issuer: str, audience: str) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=issuer,
            audience=audience,
            leeway=LEEWAY_S,
            options={"require": list(REQUIRED)},
        )
    except BROKEN as exc:
        raise _unverified(exc, "invalid_token") from exc
    return claims


def _unverified(error: Exception, otherwise: str) -> UnverifiedError:
    reason = next((name for kind, name in REASONS if isinstance(error, kind)), otherwise)
    text = str(error) if isinstance(error, jwt.PyJWTError) else "it is broken"
    return UnverifiedError(f"the token does not verify: {text}", reason)


def _subject_type(claims: Mapping[str, Any], roles: tuple[str, ...]) -> Any:
    default = "service" if roles and roles[0] in ("tenant_service", "peer") else "user"
    kind = claims.get("principal_type", claims.get("subject_type", default))
    return "user" if kind == "user" else "service"
