"""What every catalog has out of the box: the builtin models, and tiers that end at them."""

from typing import Final

from agentos.domain.models.catalog import (
    OPERATIONS,
    TIERS,
    BackendEntry,
    Catalog,
    ModelEntry,
    Operation,
    Price,
    RouteEntry,
    Step,
    TargetEntry,
)

BUILTIN: Final = "builtin"
OPENAI: Final = "openai"
FREE: Final = Price(input_per_million=0, output_per_million=0)
CONTEXT_TOKENS: Final = 1_000_000
BUILTIN_MODELS: Final[dict[str, Operation]] = {
    "builtin/echo": "chat",
    "builtin/scripted": "chat",
    "builtin/sleep": "chat",
    "builtin/embed": "embed",
}
TIER_ENDS: Final[dict[Operation, str]] = {"chat": "builtin/echo", "embed": "builtin/embed"}


def _tier_route(tier: str, operation: Operation) -> RouteEntry:
    target = TargetEntry(model_id=TIER_ENDS[operation])
    return RouteEntry(name=f"tier:{tier}", operation=operation, chain=(Step(targets=(target,)),))


DEFAULT_CATALOG: Final = Catalog(
    backends=(BackendEntry(name=BUILTIN, kind="builtin"),),
    models=tuple(
        ModelEntry(
            model_id=model_id,
            provider="agentos",
            capabilities=(operation,),
            context_window_tokens=CONTEXT_TOKENS,
            price=FREE,
        )
        for model_id, operation in BUILTIN_MODELS.items()
    ),
    routes=tuple(_tier_route(tier, operation) for tier in TIERS for operation in OPERATIONS),
)


def completed(catalog: Catalog) -> Catalog:
    """Return `catalog` with what it leaves out of the box: builtin models, and tier routes."""
    backends = {entry.name for entry in catalog.backends}
    models = {entry.model_id for entry in catalog.models}
    routes = {(entry.name, entry.operation) for entry in catalog.routes}
    box = DEFAULT_CATALOG
    return Catalog(
        backends=(*catalog.backends, *(b for b in box.backends if b.name not in backends)),
        models=(*catalog.models, *(m for m in box.models if m.model_id not in models)),
        routes=(*catalog.routes, *(r for r in box.routes if (r.name, r.operation) not in routes)),
    )


def with_openai(
    catalog: Catalog, base_url: str, models: tuple[str, ...], api_key_file: str | None = None
) -> Catalog:
    """Return `catalog` with the server of the node's settings as backend `openai`.

    No models named: any name is let through to it. A catalog that has an `openai` stays as it
    is.
    """
    if not base_url or any(entry.name == OPENAI for entry in catalog.backends):
        return catalog
    backend = BackendEntry(
        name=OPENAI,
        kind="openai",
        base_url=base_url,
        api_key_file=api_key_file,
        any_model=not models,
    )
    known = {entry.model_id for entry in catalog.models}
    entries = (
        ModelEntry(model_id=f"{OPENAI}/{name}", capabilities=OPERATIONS)
        for name in dict.fromkeys(models)
        if f"{OPENAI}/{name}" not in known
    )
    return catalog.model_copy(
        update={
            "backends": (*catalog.backends, backend),
            "models": (*catalog.models, *entries),
        }
    )
