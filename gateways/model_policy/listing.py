"""The models that a tenant may use, as our own clients and as OpenAI's know them."""

from typing import Any, Final

from starlette.requests import Request

from agentos.domain.errors import NotFoundError
from agentos.domain.models.catalog import Catalog, ModelEntry, RouteEntry
from agentos.domain.models.entitled import Entitled, entitled
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.call import call_of
from agentos.gateways.http.parameters import Parameter
from agentos.gateways.model_policy.parts import parts_of

OWNER: Final = "agentos"
MODEL_ID: Final = Parameter("model_id", "a model's id, a tier, or an alias", "path")
Capability = dict[str, Any]


async def list_models(request: Request) -> Answer:
    """List the models and routes that the caller's tenant may use."""
    call = call_of(request.scope)
    found, created = await _usable(request)
    data = [_openai(one, created) for one in found]
    return json_answer({"models": found, "object": "list", "data": data}, call.correlation_id)


async def get_model(request: Request) -> Answer:
    """Return one of them as OpenAI's clients know it; 404 for one that is not among them."""
    call = call_of(request.scope)
    model_id = request.path_params["model_id"]
    found, created = await _usable(request)
    for one in found:
        if one["model_id"] == model_id:
            return json_answer(_openai(one, created), call.correlation_id)
    raise NotFoundError("no such model", model_ref=model_id)


async def _usable(request: Request) -> tuple[list[Capability], int]:
    parts, tenant_id = parts_of(request), call_of(request.scope).caller.tenant_id
    tenant = await parts.known.get(Tenant, tenant_ref(tenant_id))
    tenant.require_active()
    catalog = await parts.known.get(CatalogAggregate, CATALOG_REF)
    return usable(catalog.document, entitled(tenant.profile)), catalog.time // 1000


def usable(catalog: Catalog, rights: Entitled) -> list[Capability]:
    """Return a `ModelCapability` for each model, and each name of a route, that may be used."""
    models = {entry.model_id: entry for entry in catalog.models}
    kinds = {entry.name: entry.kind for entry in catalog.backends}
    found = [
        _of_model(entry, entry.provider or kinds[entry.backend])
        for entry in catalog.models
        if rights.allows(entry.model_id, entry)
    ]
    routes: dict[str, list[str]] = {}
    for route in catalog.routes:
        if _leads_somewhere(route, models, rights):
            routes.setdefault(route.name, []).append(route.operation)
    return found + [_of_route(name, operations) for name, operations in routes.items()]


def _leads_somewhere(route: RouteEntry, models: dict[str, ModelEntry], rights: Entitled) -> bool:
    ids = [target.model_id for step in route.chain for target in step.targets]
    entries = (models.get(one) or ModelEntry(model_id=one) for one in ids)
    return any(rights.allows(route.name, entry) for entry in entries)


def _of_model(entry: ModelEntry, provider: str) -> Capability:
    found = entry.model_dump(mode="json", exclude_none=True)
    return {"model_id": found.pop("model_id"), **found, "provider": provider}


def _of_route(name: str, operations: list[str]) -> Capability:
    tier = {"tier": name.removeprefix("tier:")} if name.startswith("tier:") else {}
    return {"model_id": name, "provider": OWNER, "capabilities": operations, **tier}


def _openai(model: Capability, created: int) -> Capability:
    return {
        "id": model["model_id"],
        "object": "model",
        "created": created,
        "owned_by": model["provider"],
    }
