"""The routes of the node's catalog: read it, read its versions, publish another."""

from typing import Any, Final

from starlette.requests import Request

from agentos.domain.aggregate import read_events
from agentos.domain.errors import NotFoundError
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate, CatalogPublished
from agentos.domain.times import rfc3339
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.authorization import require
from agentos.gateways.http.bodies import narrowed, read_body
from agentos.gateways.http.call import call_of
from agentos.gateways.http.parameters import MAX_POSITION, Number
from agentos.gateways.orchestrator.catalog_schemas import CatalogPut
from agentos.gateways.orchestrator.parts import parts_of
from agentos.gateways.orchestrator.queries import read_command_id

PLATFORM: Final = "platform:admin"
VERSION: Final = Number("version", "as it was published then", 0, MAX_POSITION)


async def get_catalog(request: Request) -> Answer:
    """Return the backends, models, prices and routes that hold, or held in a version."""
    call, version = call_of(request.scope), VERSION.read(request)
    catalog = CatalogAggregate(CATALOG_REF)
    for record in await parts_of(request).log.read(CATALOG_REF):
        if version is not None and catalog.version >= version:
            break
        catalog.fold([record])
    if version is not None and catalog.version != version:
        raise NotFoundError("the catalog has no such version", version=version)
    return json_answer({"catalog": catalog.view()}, call.correlation_id)


async def list_catalog_versions(request: Request) -> Answer:
    """List every version that was published: when, by whom, from where; the newest first."""
    call, versions = call_of(request.scope), []
    for record in await parts_of(request).log.read(CATALOG_REF):
        for event in read_events(record, CatalogAggregate.PAYLOADS):
            if isinstance(payload := event.payload, CatalogPublished):
                who = event.principal.principal_id if event.principal else None
                versions.append(
                    {
                        "version": payload.version,
                        "source": payload.source,
                        "published_at": rfc3339(event.time),
                        "principal_id": who,
                    }
                )
    return json_answer({"versions": versions[::-1]}, call.correlation_id)


async def put_catalog(request: Request) -> Answer:
    """Publish a catalog as a whole; 409 when `expected_version` is over.

    Every problem of the document is an entry of `details.errors`, with its place.
    """
    call = call_of(request.scope)
    body = await read_body(request, CatalogPut)
    auth = narrowed(call.caller, body.auth)
    require(auth, PLATFORM)
    command: dict[str, Any] = {
        "document": body.document,
        "expected_version": body.expected_version,
        "traceparent": call.traceparent,
        "correlation_id": call.correlation_id,
        "command_id": read_command_id(request),
    }
    answer = await parts_of(request).bus.send("catalog.publish", auth, command)
    answer.pop("position", None)
    return json_answer(answer, call.correlation_id)
