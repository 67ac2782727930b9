"""The routes that tell of this node and of its peers."""

from typing import Any

import orjson
from starlette.requests import Request

from agentos.domain.errors import AgentOSError, ConflictError, InvalidRequestError
from agentos.domain.federation.peer import PeerEntry
from agentos.domain.times import rfc3339
from agentos.federation.book import Known
from agentos.federation.door import Federation, federation_of
from agentos.federation.local import capabilities_of
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.bodies import read_body
from agentos.gateways.http.call import call_of
from agentos.gateways.http.errors import misfit
from agentos.gateways.http.parameters import PathId

STACK_ID = PathId("stack_id", "the peer's id")


async def get_peer(request: Request) -> Answer:
    """Say who this node is and where its doors are."""
    info = federation_of(request).ports.local.info
    return json_answer({"peer": info.view()}, call_of(request.scope).correlation_id)


async def get_capabilities(request: Request) -> Answer:
    """Say what this node can do, and how busy it is."""
    found = await capabilities_of(federation_of(request).ports.local)
    content = {"capabilities": found.model_dump(mode="json")}
    return json_answer(content, call_of(request.scope).correlation_id)


async def get_peer_info(request: Request) -> Answer:
    """Say who this node is and where its doors are."""
    return await get_peer(request)


async def get_peer_capabilities(request: Request) -> Answer:
    """Say what this node can do, and how busy it is."""
    return await get_capabilities(request)


async def get_keys(request: Request) -> Answer:
    """Publish the keys that this node signs with, the newest and those before it."""
    key_set = federation_of(request).ports.peering.signer.key_set()
    return Answer(orjson.dumps(key_set), headers={"cache-control": "max-age=60"})


async def list_peers(request: Request) -> Answer:
    """List the known peers: whether they answer, since when, and what was copied from them."""
    federation = federation_of(request)
    copies = await _copies(federation)
    peers = [
        _view(known) | copies.get(known.entry.stack_id, {}) | _way(federation, known.entry.stack_id)
        for known in federation.book.all()
    ]
    unsecured = [peer["stack_id"] for peer in peers if peer["security"] == "unsecured"]
    content: dict[str, Any] = {
        "stack_id": federation.ports.local.info.stack_id,
        "peers": peers,
        "security": "unsecured" if unsecured else "secured",
        "unsecured_peers": unsecured,
        "copies_in_progress": len(federation.backhaul),
    }
    return json_answer(content, call_of(request.scope).correlation_id)


async def put_peer(request: Request) -> Answer:
    """Make a peer known, or change what is known of one that was added here."""
    federation, call = federation_of(request), call_of(request.scope)
    stack_id = STACK_ID.read(request)
    entry = await read_body(request, PeerEntry)
    _check(federation, stack_id, entry)
    command = {
        "entry": entry.model_dump(mode="json", by_alias=True),
        "traceparent": call.traceparent,
        "correlation_id": call.correlation_id,
    }
    await federation.ports.bus.send("peer.add", call.caller, command)
    federation.book.add(entry)
    known = federation.book.get(stack_id)
    content = {"peer": _view(known) if known else {}}
    return json_answer(content, call.correlation_id)


def _check(federation: Federation, stack_id: str, entry: PeerEntry) -> None:
    """Raise for an entry that contradicts the path, this node or the file."""
    if entry.stack_id != stack_id:
        raise misfit(["body", "stack_id"], "is another one than the path's")
    if stack_id == federation.ports.local.info.stack_id:
        raise ConflictError("this node is no peer of its own", stack_id=stack_id)
    known = federation.book.get(stack_id)
    if known is not None and not known.is_added:
        raise ConflictError("the peer stands in the peers file", stack_id=stack_id)
    if entry.nats is not None:
        raise InvalidRequestError("links between brokers stand in the peers file", errors=[])
    if federation.ports.peering.is_prod and not (entry.is_keyed and entry.has_tls):
        raise InvalidRequestError("prod takes peers with certificates and keys only", errors=[])


async def delete_peer(request: Request) -> Answer:
    """Forget a peer that was added here."""
    federation, call = federation_of(request), call_of(request.scope)
    stack_id = STACK_ID.read(request)
    command = {"stack_id": stack_id, "traceparent": call.traceparent}
    await federation.ports.bus.send("peer.remove", call.caller, command)
    federation.book.remove(stack_id)
    return json_answer({"stack_id": stack_id}, call.correlation_id)


def _view(known: Known) -> dict[str, Any]:
    entry = known.entry
    info = known.info or entry
    return {
        "stack_id": entry.stack_id,
        "state": known.state,
        "last_seen": None if known.last_seen is None else rfc3339(round(known.last_seen * 1000)),
        "negotiated_version": known.protocol,
        "reason": known.reason,
        "security": _security(entry),
        "source": "added" if known.is_added else "file",
        "environment": info.environment,
        "region": info.region,
        "build": info.build.model_dump(),
        "endpoints": entry.endpoints.model_dump(by_alias=True),
        "tenants": list(entry.tenants),
        "rights": list(entry.rights),
        "load": known.load,
        "features": list(known.capabilities.features) if known.capabilities else [],
    }


def _way(federation: Federation, stack_id: str) -> dict[str, Any]:
    """Return over what the events of a peer come at present."""
    link = federation.links.get(stack_id)
    if link is None:
        return {"events_by": "http"}
    return {"events_by": "leaf" if link.is_live else "http", "leaf": link.view()}


def _security(entry: PeerEntry) -> str:
    if entry.has_tls:
        return "mtls"
    return "tokens" if entry.is_keyed else "unsecured"


async def _copies(federation: Federation) -> dict[str, dict[str, Any]]:
    """Return by peer what was copied; nothing when the read model cannot be asked."""
    if federation.ports.peering.figures is None:
        return {}
    try:
        rows = await federation.ports.peering.figures.by_peer()
    except AgentOSError:
        return {}
    return {str(row["stack_id"]): {"copies": dict(row)} for row in rows}
