"""AWS Signature Version 4 of a request, as its documentation describes it."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, quote

from yarl import URL

ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key; the token goes with temporary ones."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a signature holds."""

    region: str
    service: str


def signed_headers(
    method: str,
    url: URL,
    headers: Mapping[str, str],
    body: bytes,
    *,
    scope: Scope,
    credentials: Credentials,
    now: datetime,
) -> dict[str, str]:
    """Return `headers` with the date, the session token and the signature over them all.

    `url` is as it goes over the wire; its path is encoded once more for the signature, as all
    services but one want it. `now` is in UTC.
    """
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    sent = {**headers, "X-Amz-Date": moment}
    if credentials.session_token is not None:
        sent["X-Amz-Security-Token"] = credentials.session_token
    named = {"host": _host(url), **{k.lower(): " ".join(v.split()) for k, v in sent.items()}}
    names = ";".join(sorted(named))
    canonical = "\n".join(
        [
            method,
            quote(url.raw_path, safe="/-_.~"),
            _canonical_query(url),
            *(f"{name}:{named[name]}" for name in sorted(named)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    place = f"{moment[:8]}/{scope.region}/{scope.service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"{ALGORITHM}\n{moment}\n{place}\n{digest}"
    key = _signing_key(credentials.secret_access_key, moment[:8], scope.region, scope.service)
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    sent["Authorization"] = (
        f"{ALGORITHM} Credential={credentials.access_key_id}/{place}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return sent


def _host(url: URL) -> str:
    return url.raw_authority if not url.is_default_port() else str(url.raw_host)


def _canonical_query(url: URL) -> str:
    pairs = parse_qsl(url.raw_query_string, keep_blank_values=True)
    encoded = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in pairs)
    return "&".join(f"{key}={value}" for key, value in encoded)


@lru_cache(maxsize=16)
def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
