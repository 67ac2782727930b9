"""Which brokers this node's broker is linked with: from the peers file and the settings."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agentos.domain.federation.peer import PeerEntry, PeerInfo
from agentos.infra.federation.peers_file import PeersFileError
from agentos.infra.nats_links import Link, Links
from agentos.infra.settings import Settings

SECRET: Final = re.compile(r"^[A-Za-z0-9_-]{32,256}$")


def links_of(settings: Settings, local: PeerInfo, entries: Sequence[PeerEntry]) -> Links:
    """Return the links of the peers whose entry has `nats`; `PeersFileError` for one that is off.

    A peer with a `leaf_url` is where events are taken. Where this broker listens for leaf nodes,
    each peer with credentials may take the events of the runs that it forwarded.
    """
    listen = settings.fed_leaf_listen or None
    found = tuple(_link(settings, entry, gives=listen is not None) for entry in entries)
    tls = _tls(settings)
    return Links(local.stack_id, listen, tls, tuple(link for link in found if link is not None))


def _link(settings: Settings, entry: PeerEntry, *, gives: bool) -> Link | None:
    if entry.nats is None:
        return None

    def refused(why: str) -> PeersFileError:
        return PeersFileError(
            f"AGENTOS_PEERS_FILE: {settings.peers_file}: {entry.stack_id}: nats: {why}"
        )

    url = entry.nats.leaf_url
    if url is None and not gives:
        raise refused("it has no leaf_url, and AGENTOS_FED_LEAF_LISTEN is not set")
    if url is not None and url.startswith("tls:") and _tls(settings) is None:
        raise refused("tls needs AGENTOS_FED_CA_CERT, AGENTOS_FED_CERT and AGENTOS_FED_KEY")
    if url is not None and settings.profile == "prod" and not url.startswith("tls:"):
        raise refused("prod takes tls:// only")
    try:
        secret = Path(entry.nats.credentials_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise refused(f"credentials_file cannot be read: {type(exc).__name__}") from exc
    if not SECRET.match(secret):
        raise refused("credentials_file must hold 32 to 256 letters, digits, - and _")
    return Link(entry.stack_id, secret, url, gives)


def _tls(settings: Settings) -> tuple[str, str, str] | None:
    files = (settings.fed_ca_cert, settings.fed_cert, settings.fed_key)
    if any(file is None for file in files):
        return None
    authority, certificate, key = (str(Path(str(file)).absolute()) for file in files)
    return authority, certificate, key
