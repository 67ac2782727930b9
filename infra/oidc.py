"""An OpenID provider's signing keys: fetched, kept, fetched again, never trusted blindly."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from agentos.domain.errors import DependencyUnavailableError

log = logging.getLogger(__name__)

TTL_S: Final = 300.0
RETRY_S: Final = 5.0
PACE_S: Final = 1.0
WAIT_S: Final = 8.0
FETCH_S: Final = 3.0
MAX_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 100
MIN_RSA_BITS: Final = 2048
DISCOVERY: Final = "/.well-known/openid-configuration"
ALGORITHMS: Final[Mapping[tuple[str, str | None], str]] = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key and the one algorithm that its type is used with."""

    algorithm: str
    key: Any


class OidcKeys:
    """The keys of one issuer. Keys that are kept go on to hold while the issuer is down.

    They are fetched every `ttl_s` seconds, and at once for a key id that is not known: one
    fetch serves all who asked before it began, and fetches are at least `pace_s` apart.
    """

    def __init__(
        self,
        issuer: str,
        jwks_url: str = "",
        *,
        ttl_s: float = TTL_S,
        retry_s: float = RETRY_S,
        pace_s: float = PACE_S,
        fetch_s: float = FETCH_S,
    ) -> None:
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._ttl_s = ttl_s
        self._retry_s = retry_s
        self._pace_s = pace_s
        self._fetch_s = fetch_s
        self._keys: dict[str | None, PublicKey] = {}
        self._lock = asyncio.Lock()
        self._began = float("-inf")
        self._error: DependencyUnavailableError | None = None

    async def run(self) -> None:
        """Keep the keys fresh until cancelled: a withdrawn key ends with the next fetch."""
        while True:
            try:
                await self._fetch_after(asyncio.get_running_loop().time())
            except DependencyUnavailableError as error:
                log.warning("the keys that there are still hold: %s", error)
                await asyncio.sleep(self._retry_s)
            else:
                await asyncio.sleep(self._ttl_s)

    async def find(self, kid: str | None) -> PublicKey | None:
        """Return the key of that id (without one: the only key), `None` if there is none.

        Raises `DependencyUnavailableError` with `dependency="oidc"` when the id is not known and
        the issuer cannot be asked.
        """
        found = self._keys.get(kid)
        if found is not None:
            return found
        try:
            async with asyncio.timeout(WAIT_S):
                await self._fetch_after(asyncio.get_running_loop().time())
        except TimeoutError as exc:
            raise _unavailable("it takes too long") from exc
        return self._keys.get(kid)

    async def _fetch_after(self, asked: float) -> None:
        """Return after a fetch that began after `asked`; raises what that fetch came to."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if self._began < asked:
                await asyncio.sleep(max(0.0, self._began + self._pace_s - loop.time()))
                began = loop.time()
                await self._fetch()
                self._began = began
            if self._error is not None:
                raise self._error

    async def _fetch(self) -> None:
        self._error = None
        try:
            async with aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._fetch_s)
            ) as http:
                url = self._jwks_url or await self._discover(http)
                self._keys = read_keys(await _get(http, url))
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            self._error = _unavailable(f"{type(exc).__name__}: {exc}")
        except DependencyUnavailableError as error:
            self._error = error

    async def _discover(self, http: aiohttp.ClientSession) -> str:
        document = await _get(http, self._issuer.rstrip("/") + DISCOVERY)
        if document.get("issuer") != self._issuer:
            raise _unavailable("its configuration names another issuer")
        url = document.get("jwks_uri")
        if not isinstance(url, str) or not url.startswith(("https://", "http://")):
            raise _unavailable("its configuration names no keys")
        return url


def read_keys(document: Mapping[str, Any]) -> dict[str | None, PublicKey]:
    """Return the signing keys of a key set by their ids; a lone key also without an id.

    Keys that we do not verify with (other types, curves, uses, algorithms, short RSA keys, shared
    secrets) are passed over. Raises `DependencyUnavailableError` when it is no key set.
    """
    listed = document.get("keys")
    if not isinstance(listed, list):
        raise _unavailable("its keys are not a key set")
    found: dict[str | None, PublicKey] = {}
    for entry in listed[:MAX_KEYS]:
        key = _read_key(entry) if isinstance(entry, dict) else None
        if key is not None and isinstance(entry.get("kid", ""), str):
            found[entry.get("kid", "")] = key
    if len(found) == 1:
        found[None] = next(iter(found.values()))
    return found


def _read_key(entry: dict[str, Any]) -> PublicKey | None:
    kind, curve = entry.get("kty"), entry.get("crv")
    if not isinstance(kind, str) or not isinstance(curve, str | None):
        return None
    algorithm = ALGORITHMS.get((kind, curve))
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    if entry.get("use", "sig") != "sig":
        return None
    public = {name: value for name, value in entry.items() if name in ("kty", "crv", *"nexy")}
    try:
        key = jwt.PyJWK(public, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as exc:
        log.warning("a key of the issuer cannot be read: %s", exc)
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        log.warning("an RSA key of the issuer has less than %s bits", MIN_RSA_BITS)
        return None
    return PublicKey(algorithm, key)


async def _get(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with http.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise _unavailable(f"it answered {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_chunked(16 * 1024):
            body += chunk
            if len(body) > MAX_BYTES:
                raise _unavailable("its answer is too large")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise _unavailable("its answer is not JSON") from exc
    if not isinstance(document, dict):
        raise _unavailable("its answer is not an object")
    return document


def _unavailable(why: str) -> DependencyUnavailableError:
    return DependencyUnavailableError(
        f"the token issuer cannot be asked for its keys: {why}", dependency="oidc"
    )
