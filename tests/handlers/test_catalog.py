"""The catalog's command and its start: checked, versioned, audited, and no way to other files."""

from typing import Any

import pytest

from agentos.domain.audit.causes import entry_of
from agentos.domain.auth import SYSTEM_PRINCIPAL, AuthContext, system_auth
from agentos.domain.envelope import read_line
from agentos.domain.errors import ConflictError, ForbiddenError, InvalidRequestError
from agentos.domain.models.catalog_rules import parse_catalog
from agentos.domain.models.defaults import DEFAULT_CATALOG
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate
from agentos.handlers.catalog import publish_at_start
from agentos.handlers.parts import Parts
from agentos.handlers.routes import handle
from tests.domain.given import TRACE
from tests.handlers.node import Node, a_node, caller
from tests.handlers.virtual import virtual_time

ADMIN = system_auth("tnt_root")


def backend(**more: Any) -> dict[str, Any]:
    return {"name": "up", "kind": "openai", "base_url": "http://m.example/v1"} | more


def document(*backends: dict[str, Any]) -> dict[str, Any]:
    return {"backends": list(backends)}


async def publish(parts: Parts, raw: Any, auth: AuthContext = ADMIN, **more: Any) -> dict[str, Any]:
    command = {"traceparent": TRACE, "document": raw, **more}
    message = {"auth": auth.model_dump(mode="json"), "command": command}
    return await handle(parts, "catalog.publish", message)


async def catalog_of(node: Node) -> CatalogAggregate:
    return CatalogAggregate(CATALOG_REF).fold(await node.log.read(CATALOG_REF))


@virtual_time
async def test_a_catalog_is_published_and_audited_once() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        answer = await publish(parts, document(backend()), command_id="cmd_1")
        assert answer["catalog"]["version"] == 1
        assert answer["catalog"]["source"] == "api"
        assert answer["catalog"]["document"] == parse_catalog(document(backend())).model_dump(
            mode="json"
        )
        again = await publish(parts, document(backend()), command_id="cmd_1")
        assert again == answer
        (published,) = await node.log.read(CATALOG_REF)
        entry = entry_of(published, read_line(published.body))
        assert (entry.action, entry.principal) == ("config.change", ADMIN.principal)
        assert entry.meta["version"] == 1
        assert "m.example" not in str(entry)
        with pytest.raises(ConflictError):
            await publish(parts, document(), command_id="cmd_1")


@virtual_time
async def test_what_does_not_hold_is_refused_with_its_place() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        with pytest.raises(InvalidRequestError) as caught:
            await publish(parts, document(backend(timeout=1), backend(name="B")))
        places = [error["loc"] for error in caught.value.details["errors"]]
        assert ["body", "document", "backends", 0, "timeout"] in places
        assert ["body", "document", "backends", 1, "name"] in places
        assert (await catalog_of(node)).version == 0


@virtual_time
async def test_only_the_platform_publishes() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        with pytest.raises(ForbiddenError):
            await publish(parts, document(), auth=caller())


@virtual_time
async def test_an_expected_version_that_is_over_is_a_conflict() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        await publish(parts, document(backend()), expected_version=0)
        with pytest.raises(ConflictError) as caught:
            await publish(parts, document(), expected_version=0)
        assert caught.value.details["version"] == 1


@pytest.mark.parametrize("name", ["/etc/passwd", "../jwt_secret", "a/b", ".."])
@virtual_time
async def test_a_key_file_over_the_network_is_a_bare_name(name: str) -> None:
    async with a_node() as node:
        parts = await node.handlers()
        with pytest.raises(InvalidRequestError) as caught:
            await publish(parts, document(backend(api_key_file=name)))
        (error,) = caught.value.details["errors"]
        assert error["loc"] == ["body", "document", "backends", 0, "api_key_file"]
        assert (await publish(parts, document(backend(api_key_file="up.key"))))["position"]


@virtual_time
async def test_the_files_own_key_stays_with_its_server() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        own = backend(api_key_file="/run/secrets/up")
        await publish_at_start(parts, parse_catalog(document(own)), "file")
        await publish(parts, document(own, backend(name="more")))
        for moved in ({"base_url": "http://thief.example"}, {"name": "other"}):
            with pytest.raises(InvalidRequestError):
                await publish(parts, document(own | moved))


@virtual_time
async def test_a_start_publishes_what_has_changed_and_audits_it() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        assert await publish_at_start(parts, DEFAULT_CATALOG, "default") == 1
        assert await publish_at_start(parts, DEFAULT_CATALOG, "default") == 1
        await publish(parts, document(backend()))
        assert await publish_at_start(parts, DEFAULT_CATALOG, "default") == 2
        assert (await catalog_of(node)).source == "api"
        file = parse_catalog(document(backend(name="file")))
        assert await publish_at_start(parts, file, "file") == 3
        assert (await catalog_of(node)).document == file
        records = await node.log.read(CATALOG_REF)
        entries = [entry_of(record, read_line(record.body)) for record in records]
        assert [entry.meta["version"] for entry in entries] == [1, 2, 3]
        assert entries[-1].principal == SYSTEM_PRINCIPAL
