"""The handlers of the node's catalog: published by an admin, or by the node's own start."""

from typing import Any

from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL, AuthContext
from agentos.domain.envelope import NO_TRACE, Event
from agentos.domain.errors import ConflictError, InvalidRequestError
from agentos.domain.models.catalog import BackendEntry, Catalog
from agentos.domain.models.catalog_rules import CatalogError, parse_catalog
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate, Source
from agentos.domain.tenant.access import require_platform
from agentos.handlers.commands import PublishCatalog
from agentos.handlers.deciding import decide_once
from agentos.handlers.parts import Parts


async def publish_catalog(
    parts: Parts, auth: AuthContext, command: PublishCatalog
) -> dict[str, Any]:
    """Publish a catalog as a whole; returns `{catalog, position}`.

    Raises `InvalidRequestError` that lists every problem with its place, `ConflictError` when
    `expected_version` is over.
    """
    require_platform(auth, "publish the catalog")
    try:
        document = parse_catalog(command.document)
    except CatalogError as wrong:
        raise wrong.as_invalid(("body", "document")) from wrong

    def decision(catalog: CatalogAggregate, at: Moment) -> list[Event]:
        _require_known_keys(document, catalog.document)
        return catalog.publish(document, "api", at, expected_version=command.expected_version)

    at = parts.moment_of(auth, command)
    decided = await decide_once(parts, CatalogAggregate, CATALOG_REF, at, decision)
    if not decided.is_same:
        raise ConflictError("the idempotency key was used for a different request")
    return {"catalog": decided.aggregate.view(), "position": decided.aggregate.position}


def _require_known_keys(document: Catalog, current: Catalog) -> None:
    """Raise for a key file that only the node's own models file may name.

    Over the network a bare name is taken (a file of the node's key directory), or what stands in
    the catalog already, for the same server: else whoever may publish could have any file of
    the node's machine sent anywhere.
    """
    known = {_key(entry) for entry in current.backends}
    errors = [
        {
            "loc": ["body", "document", "backends", number, "api_key_file"],
            "msg": "must be the bare name of a file in the node's key directory",
        }
        for number, entry in enumerate(document.backends)
        if entry.api_key_file is not None
        and not _is_bare(entry.api_key_file)
        and _key(entry) not in known
    ]
    if errors:
        raise InvalidRequestError("the catalog does not hold", errors=errors)


def _is_bare(name: str) -> bool:
    return "/" not in name and "\0" not in name and name not in (".", "..")


def _key(entry: BackendEntry) -> tuple[str, str, str | None, str | None]:
    return entry.name, entry.kind, entry.base_url, entry.api_key_file


async def publish_at_start(parts: Parts, document: Catalog, source: Source) -> int:
    """Publish the node's own catalog if it has changed since the last start; its version now.

    What an admin published holds until the file (or the settings) say something else.
    """

    def decision(catalog: CatalogAggregate, at: Moment) -> list[Event]:
        return catalog.publish_at_start(document, source, at)

    at = parts.moment(SYSTEM_PRINCIPAL, NO_TRACE)
    decided = await decide_once(parts, CatalogAggregate, CATALOG_REF, at, decision)
    return decided.aggregate.version
