"""With which settings a node was last started, so that the next start can say what differs.

Only flags are remembered and hold again; of all other settings only digests are kept.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator

from agentos.infra.node.marker import read_marker, update_marker
from agentos.infra.node.paths import NodePaths
from agentos.infra.settings import Settings, mask, variables

# What says where the node is or who asks, not how it runs.
_NOT_OF_THE_NODE = ("AGENTOS_DATA_DIR", "AGENTOS_TOKEN")
_ACCOUNT = re.compile(r"//[^/@]*@")
_SERVERS = {"NATS": "AGENTOS_NATS_URL", "PostgreSQL": "AGENTOS_POSTGRES_DSN"}


def changed_settings(paths: NodePaths, settings: Settings) -> list[str]:
    """Return `NAME (new | changed | no longer set)` for what differs from the last start."""
    last = read_marker(paths).get("last_start")
    if not isinstance(last, dict):
        return []
    return list(_differences(last["settings"], _digests(settings, last["salt"])))


def remember_start(paths: NodePaths, settings: Settings) -> None:
    """Write down the settings of this start: digests, and the masked names of others' servers."""
    salt = secrets.token_hex(16)
    start = {"salt": salt, "settings": _digests(settings, salt), "servers": _servers(settings)}
    update_marker(paths, last_start=start)


def servers_of_others(paths: NodePaths, settings: Settings) -> dict[str, str]:
    """Return the servers, masked, that hold data of this node and are not part of it."""
    last = read_marker(paths).get("last_start")
    return {**(last["servers"] if isinstance(last, dict) else {}), **_servers(settings)}


def _servers(settings: Settings) -> dict[str, str]:
    places = {name: settings.texts.get(of, "") for name, of in _SERVERS.items()}
    # A URL's account may be a token, so nothing of it is shown.
    return {
        name: _ACCOUNT.sub("//", mask(place, "password")) for name, place in places.items() if place
    }


def _digests(settings: Settings, salt: str) -> dict[str, str]:
    return {
        name: hashlib.sha256(f"{salt}{getattr(settings, spec.name)}".encode()).hexdigest()
        for name, spec in variables().items()
        if settings.origins.get(name, "default") != "default" and name not in _NOT_OF_THE_NODE
    }


def _differences(last: dict[str, str], now: dict[str, str]) -> Iterator[str]:
    for name in sorted({*last, *now}):
        if name not in now:
            yield f"{name} (no longer set)"
        elif name not in last:
            yield f"{name} (new)"
        elif last[name] != now[name]:
            yield f"{name} (changed)"
