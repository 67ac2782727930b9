"""Every route of the federation door on one page."""

from typing import Final

from fastapi import FastAPI

from agentos.domain.federation.peer import PeerEntry
from agentos.federation import about, approvals, runs
from agentos.federation import parameters as p
from agentos.federation import schemas as s
from agentos.federation.ingest import IngestBody
from agentos.gateways.http.routing import Described, Endpoint, add

Table = tuple[tuple[str, str, Endpoint, Described], ...]
TAG: Final = "federation"
ADMIN: Final = (400, 401, 403, 404, 409, 413, 503, 504)
ASKED: Final = (400, 401, 403, 429, 503)
CALLED: Final = (400, 401, 403, 404, 409, 413, 429, 502, 503, 504)
STREAM: Final = (400, 401, 403, 404, 409, 410, 502, 503)


def add_routes(app: FastAPI) -> None:
    """Add all routes."""
    for method, path, endpoint, about_it in ROUTES:
        add(app, method, path, endpoint, about_it)


PEER: Final = Described("Who this node is", {200: s.PeerAnswerShape}, errors=ASKED, tag=TAG)
ABLE: Final = Described("What this node can do", {200: s.CapabilitiesAnswer}, errors=ASKED, tag=TAG)
ROUTES: Final[Table] = (
    (
        "POST",
        "/v1/federation/runs:forward",
        runs.forward_run,
        Described(
            "Start a run at the node that fits",
            {200: s.ForwardAnswer},
            body=s.ForwardBody,
            errors=CALLED,
            tag=TAG,
        ),
    ),
    (
        "GET",
        "/v1/federation/runs/{run_id}/events",
        runs.stream_remote_events,
        Described(
            "Stream a remote run's events",
            {200: "text/event-stream", 204: ""},
            (runs.RUN_ID, p.AFTER_SEQUENCE, p.FROM_SEQUENCE, p.LAST_EVENT_ID, p.TYPES, p.DELTAS),
            errors=STREAM,
            tag=TAG,
        ),
    ),
    (
        "POST",
        "/v1/federation/runs/{run_id}:cancel",
        runs.cancel_remote_run,
        Described(
            "Cancel a run where it is executed",
            {200: s.CancelAnswer},
            (runs.RUN_ID,),
            s.CancelBody,
            body_required=False,
            errors=CALLED,
            tag=TAG,
        ),
    ),
    (
        "GET",
        "/v1/federation/runs/{run_id}/approvals",
        approvals.list_remote_approvals,
        Described(
            "List the approvals of a run",
            {200: s.ApprovalsAnswer},
            (runs.RUN_ID,),
            errors=STREAM,
            tag=TAG,
        ),
    ),
    (
        "POST",
        "/v1/federation/runs/{run_id}/approvals/{approval_id}",
        approvals.decide_remote_approval,
        Described(
            "Approve or reject a tool call where the run is executed",
            {200: s.DecisionAnswer},
            (runs.RUN_ID, approvals.APPROVAL_ID),
            s.ApprovalDecide,
            errors=CALLED,
            tag=TAG,
        ),
    ),
    (
        "POST",
        "/v1/federation/events:ingest",
        runs.ingest_events,
        Described(
            "Take in events that a peer pushes",
            {200: s.IngestAnswer},
            body=IngestBody,
            errors=(400, 401, 403, 413, 429, 503, 504),
            tag=TAG,
        ),
    ),
    ("GET", "/v1/federation/peer", about.get_peer, PEER),
    ("GET", "/v1/federation/peer/capabilities", about.get_capabilities, ABLE),
    (
        "GET",
        "/v1/federation/jwks.json",
        about.get_keys,
        Described("The keys that this node signs with", {200: s.KeySet}, tag=TAG),
    ),
    (
        "GET",
        "/v1/federation/peers",
        about.list_peers,
        Described("List the known peers", {200: s.PeersAnswer}, errors=ASKED, tag=TAG),
    ),
    (
        "PUT",
        "/v1/federation/peers/{stack_id}",
        about.put_peer,
        Described(
            "Make a peer known",
            {200: s.PeerAnswerShape},
            (about.STACK_ID,),
            PeerEntry,
            errors=ADMIN,
            tag=TAG,
        ),
    ),
    (
        "DELETE",
        "/v1/federation/peers/{stack_id}",
        about.delete_peer,
        Described(
            "Forget a peer", {200: s.RemovedAnswer}, (about.STACK_ID,), errors=ADMIN, tag=TAG
        ),
    ),
    # The names that these had first.
    ("GET", "/v1/peer/info", about.get_peer_info, PEER),
    ("GET", "/v1/peer/capabilities", about.get_peer_capabilities, ABLE),
)
