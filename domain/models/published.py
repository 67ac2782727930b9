"""The node's catalog in the log: each version as it was published."""

from typing import Any, ClassVar, Literal

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.audit.chain import NODE_TENANT
from agentos.domain.envelope import Event, Payload, by_type
from agentos.domain.errors import ConflictError
from agentos.domain.models.catalog import Catalog
from agentos.domain.models.defaults import DEFAULT_CATALOG
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339

Source = Literal["default", "file", "api"]


class CatalogPublished(Payload):
    """The node's models, prices and routes are these from now on, as a whole."""

    TYPE: ClassVar = "agentos.catalog.published"
    version: int
    source: Source
    document: Catalog


class CatalogAggregate(Aggregate):
    """The catalog that holds now; before the first was published, version 0 is the box's own.

    `at_start` is the last one that came from the node's own start (its file and settings).
    """

    KIND: ClassVar = "catalog"
    PAYLOADS: ClassVar = by_type(CatalogPublished)

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.version = 0
        self.source: Source = "default"
        self.document = DEFAULT_CATALOG
        self.at_start: Catalog | None = None

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        payload = event.payload
        if isinstance(payload, CatalogPublished):
            self.version = payload.version
            self.source = payload.source
            self.document = payload.document
            if payload.source != "api":
                self.at_start = payload.document

    def publish(
        self, document: Catalog, source: Source, at: Moment, *, expected_version: int | None = None
    ) -> list[Event]:
        """Decide a new version; the document that holds already changes nothing.

        `ConflictError` when `expected_version` is not the one that holds.
        """
        if expected_version is not None and expected_version != self.version:
            raise ConflictError(
                "the catalog has another version by now",
                version=self.version,
                expected_version=expected_version,
            )
        if self.version and document == self.document:
            return []
        return [next_event(self, self._next(document, source), at)]

    def publish_at_start(self, document: Catalog, source: Source, at: Moment) -> list[Event]:
        """Decide what a start of the node publishes: its own document, if that has changed.

        What an admin published meanwhile holds until the file or the settings change.
        """
        if document == self.at_start:
            return []
        return [next_event(self, self._next(document, source), at)]

    def view(self) -> dict[str, Any]:
        """Return the catalog as the admin API shows it."""
        view: dict[str, Any] = {
            "version": self.version,
            "source": self.source,
            "document": self.document.model_dump(mode="json"),
        }
        return {**view, "published_at": rfc3339(self.time)} if self.version else view

    def _next(self, document: Catalog, source: Source) -> CatalogPublished:
        return CatalogPublished(version=self.version + 1, source=source, document=document)


CATALOG_REF = StreamRef(NODE_TENANT, CatalogAggregate.KIND, "self")
