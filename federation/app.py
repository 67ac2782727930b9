"""The federation door: its routes behind the shared layers."""

from typing import TYPE_CHECKING

from fastapi import FastAPI

from agentos.domain.federation.peer import PeerEntry
from agentos.federation.door import Federation
from agentos.federation.parts import CopyFigures, Peering, Retries, never
from agentos.federation.routes import add_routes
from agentos.gateways.http.health import Vitals, add_health
from agentos.gateways.http.routing import Gate, guarded_app
from agentos.infra.crash import crash_at
from agentos.infra.federation.client import HttpPeers
from agentos.infra.federation.keys import FOLDER, KeyRing
from agentos.infra.federation.links import links_of
from agentos.infra.federation.node import load_peers
from agentos.infra.federation.peer_keys import PeerKeys
from agentos.infra.jetstream.links import JetStreamGiven, JetStreamTaken, url_of
from agentos.infra.nats_links import giver, taker

if TYPE_CHECKING:
    from agentos.infra.settings import Settings

SERVICE = "federation"
TITLE = "AgentOS federation"


def create_app(
    gate: Gate | None = None,
    vitals: Vitals | None = None,
    federation: Federation | None = None,
    parts: object = None,
) -> FastAPI:
    """Return the routes of the federation gateway; without parts only to be documented.

    `parts` are those of the runs' own routes, where the app adds them for peers.
    """
    app = guarded_app(TITLE, gate, parts)
    app.state.federation = federation
    add_routes(app)
    add_health(app, vitals, "/v1/federation/health")
    return app


def make_peering(settings: "Settings", figures: CopyFigures | None = None) -> Peering:
    """Return the adapters of federation as the settings say; `PeersFileError` for a bad file."""
    local, entries = load_peers(settings)
    keys = KeyRing(settings.data_dir / FOLDER)
    keys.ensure()
    client = HttpPeers(settings)
    links = links_of(settings, local, entries)
    nats_url = settings.runtime().nats_url if links.links else ""

    def keys_of(entry: PeerEntry) -> PeerKeys:
        return PeerKeys(client, entry)

    return Peering(
        local=local,
        entries=entries,
        client=client,
        signer=keys,
        keys_of=keys_of,
        figures=figures,
        retries=Retries(
            settings.fed_forward_max_attempts, settings.fed_forward_base_backoff_ms / 1000
        ),
        is_prod=settings.profile == "prod",
        require_mtls=settings.fed_require_mtls,
        idempotency_ttl_ms=settings.idempotency_ttl_hours * 3_600_000,
        max_concurrent_runs=settings.executor_slots * settings.executor_processes,
        outboxes=tuple(
            JetStreamGiven(link.stack_id, url_of(nats_url, giver(link, links.stack_id)))
            for link in links.links
            if link.gives
        ),
        inboxes=tuple(
            JetStreamTaken(link.stack_id, url_of(nats_url, taker(link, links.stack_id)))
            for link in links.links
            if link.leaf_url
        ),
        crash_point=crash_at(settings.crash_point) if settings.crash_point else never,
    )
