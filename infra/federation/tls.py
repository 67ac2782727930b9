"""TLS between nodes: each shows a certificate, and its SAN says which stack it is."""

import ssl
from functools import lru_cache
from pathlib import Path

from agentos.infra.settings import Settings


def door_context(settings: Settings) -> ssl.SSLContext | None:
    """Return how the federation door speaks TLS, `None` without a certificate: plain HTTP.

    Where mTLS is required nobody without a certificate of the authority gets a connection.
    Raises `OSError` (`ssl.SSLError`) for files that do not fit.
    """
    if settings.fed_cert is None or settings.fed_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(settings.fed_cert, settings.fed_key)
    if settings.fed_ca_cert is not None:
        context.load_verify_locations(settings.fed_ca_cert)
        required = settings.fed_require_mtls
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def peer_context(settings: Settings, ca_cert: str | None = None) -> ssl.SSLContext:
    """Return how this node calls its peers: with its certificate, trusting the authority alone."""
    authority = ca_cert or (str(settings.fed_ca_cert) if settings.fed_ca_cert else None)
    own = (str(settings.fed_cert), str(settings.fed_key)) if settings.fed_cert else None
    return _client_context(authority, own, _stamp(settings.fed_cert))


def own_context(settings: Settings) -> ssl.SSLContext | None:
    """Return how this node calls its own federation door, `None` where that is plain HTTP.

    The authority vouches for the door; under which name this machine reaches it is no matter.
    """
    if settings.fed_cert is None or settings.fed_key is None:
        return None
    context = ssl.create_default_context(
        ssl.Purpose.SERVER_AUTH, cafile=settings.fed_ca_cert and str(settings.fed_ca_cert)
    )
    context.check_hostname = False
    context.load_cert_chain(settings.fed_cert, settings.fed_key)
    return context


def _stamp(path: Path | None) -> int:
    return path.stat().st_mtime_ns if path is not None and path.exists() else 0


@lru_cache(maxsize=256)
def _client_context(
    authority: str | None, own: tuple[str, str] | None, stamp: int
) -> ssl.SSLContext:
    del stamp  # a certificate that was renewed makes another context
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if own is not None:
        context.load_cert_chain(*own)
    return context
