"""What a node tells its peers of its models: from the catalog that holds."""

from dataclasses import dataclass

from agentos.domain.models.catalog import TIERS, Catalog, RouteEntry
from agentos.domain.models.defaults import BUILTIN, TIER_ENDS


@dataclass(frozen=True, slots=True)
class ModelsHere:
    """Tiers that lead somewhere, backends by name, the largest context that a model is known for.

    `max_context_tokens` is `None` where no model says its own.
    """

    tiers: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    max_context_tokens: int | None = None


def models_here(catalog: Catalog) -> ModelsHere:
    """Return what of a whole catalog (`defaults.completed`) counts for peers.

    Every catalog has routes for all tiers that end at the builtin echo: a tier counts only if its
    route leads elsewhere too. A node that has nothing but what comes with it has its tiers there.
    """
    own = [backend.name for backend in catalog.backends if backend.name != BUILTIN]
    routes = {route.name: route for route in catalog.routes if route.operation == "chat"}
    named = ((tier, routes.get(f"tier:{tier}")) for tier in TIERS)
    tiers = [tier for tier, route in named if route and (not own or _leads_somewhere(route))]
    has_own = any(m.backend != BUILTIN for m in catalog.models)
    windows = [
        model.context_window_tokens
        for model in catalog.models
        if "chat" in model.capabilities
        and model.context_window_tokens
        and (model.backend != BUILTIN or not has_own)
    ]
    return ModelsHere(tuple(tiers), tuple(sorted(own or [BUILTIN])), max(windows, default=None))


def _leads_somewhere(route: RouteEntry) -> bool:
    end = TIER_ENDS["chat"]
    return any(target.model_id != end for step in route.chain for target in step.targets)
