"""The catalog in the log: versions that count up, from the start and from an admin."""

import pytest

from agentos.domain.envelope import Event
from agentos.domain.errors import ConflictError
from agentos.domain.models.catalog_rules import parse_catalog
from agentos.domain.models.defaults import DEFAULT_CATALOG
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate
from tests.domain.given import moment, reread, types

ONE = parse_catalog({"backends": [{"name": "a", "kind": "anthropic"}]})
TWO = parse_catalog({"backends": [{"name": "b", "kind": "anthropic"}]})


def then(catalog: CatalogAggregate, events: list[Event]) -> list[str]:
    back = reread(catalog, events)
    assert back == events
    for event in back:
        catalog.evolve(event)
    return types(events)


def fresh() -> CatalogAggregate:
    return CatalogAggregate(CATALOG_REF)


def test_nothing_published_is_what_is_out_of_the_box() -> None:
    assert (fresh().version, fresh().document) == (0, DEFAULT_CATALOG)
    assert "published_at" not in fresh().view()


def test_versions_count_up_and_the_same_again_changes_nothing() -> None:
    catalog = fresh()
    assert then(catalog, catalog.publish(ONE, "api", moment())) == ["catalog.published"]
    assert then(catalog, catalog.publish(ONE, "api", moment())) == []
    assert then(catalog, catalog.publish(TWO, "api", moment())) == ["catalog.published"]
    assert (catalog.version, catalog.source, catalog.document) == (2, "api", TWO)


def test_an_expected_version_that_is_over_is_a_conflict() -> None:
    catalog = fresh()
    then(catalog, catalog.publish(ONE, "api", moment(), expected_version=0))
    with pytest.raises(ConflictError) as caught:
        catalog.publish(TWO, "api", moment(), expected_version=0)
    assert caught.value.details == {"version": 1, "expected_version": 0}


def test_a_start_publishes_only_what_has_changed_since_the_last_start() -> None:
    catalog = fresh()
    assert then(catalog, catalog.publish_at_start(DEFAULT_CATALOG, "default", moment()))
    assert not catalog.publish_at_start(DEFAULT_CATALOG, "default", moment())
    assert then(catalog, catalog.publish_at_start(ONE, "file", moment()))
    assert then(catalog, catalog.publish(TWO, "api", moment()))
    assert not catalog.publish_at_start(ONE, "file", moment())
    assert catalog.document == TWO
    assert then(catalog, catalog.publish_at_start(DEFAULT_CATALOG, "default", moment()))
    assert (catalog.version, catalog.source) == (4, "default")
