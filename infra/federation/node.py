"""Who this node is among its peers, put together from the settings and the peers file."""

from typing import Final

from agentos.domain.federation.peer import (
    Build,
    Endpoints,
    PeerEntry,
    PeerInfo,
    PeersDocument,
)
from agentos.infra.build_info import build_of
from agentos.infra.federation.peers_file import PeersFileError, read_peers_file
from agentos.infra.settings import Settings

DEFAULT: Final = "default"


def load_peers(settings: Settings) -> tuple[PeerInfo, tuple[PeerEntry, ...]]:
    """Return this node and the peers of the file; `PeersFileError` for one that is off.

    `AGENTOS_STACK_ID`, `AGENTOS_ENVIRONMENT` and `AGENTOS_REGION` go before the file's `local`.
    """
    document = PeersDocument()
    if settings.peers_file is not None:
        named = settings.stack_id if _is_set(settings, "AGENTOS_STACK_ID") else None
        document = read_peers_file(settings.peers_file, named or settings.stack_id, named)
    local = _local(settings, document)
    if settings.profile == "prod":
        _require_keys(settings, document.peers)
    return local, document.peers


def _local(settings: Settings, document: PeersDocument) -> PeerInfo:
    urls = settings.endpoints
    known = document.local or PeerInfo(
        stack_id=settings.stack_id,
        environment=settings.environment,
        region=settings.region,
        endpoints=Endpoints(
            orchestrator=urls["orchestrator"],
            model_policy=urls["model_policy"],
            federation=urls["federation"],
        ),
    )
    changes: dict[str, object] = {
        name: getattr(settings, name)
        for name in ("stack_id", "environment", "region")
        if _is_set(settings, f"AGENTOS_{name.upper()}")
    }
    if known.build == Build():
        changes["build"] = build_of()
    return known.model_copy(update=changes)


def _is_set(settings: Settings, name: str) -> bool:
    return settings.origins.get(name, DEFAULT) != DEFAULT


def _require_keys(settings: Settings, peers: tuple[PeerEntry, ...]) -> None:
    for peer in peers:
        if not peer.has_tls:
            raise PeersFileError(
                f"AGENTOS_PEERS_FILE: {settings.peers_file}: {peer.stack_id}: "
                "prod takes peers over https only: give its federation_base_url"
            )
