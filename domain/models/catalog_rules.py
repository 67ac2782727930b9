"""What must hold of a catalog as a whole; each breach names its place in the document."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from agentos.domain.errors import InvalidRequestError
from agentos.domain.models.catalog import (
    BackendEntry,
    Catalog,
    ModelEntry,
    RouteEntry,
    TargetEntry,
)
from agentos.domain.models.defaults import BUILTIN_MODELS, completed

Loc = tuple[str | int, ...]
Problem = tuple[Loc, str]
Complete = Callable[[Catalog], Catalog]
SECRET_WORDS: Final = ("authorization", "key", "token", "secret", "cookie", "password")
IN_PROCESS: Final = frozenset({"builtin", "local"})
MAX_PROBLEMS: Final = 100


class CatalogError(Exception):
    """The document is no catalog; `problems` are `(place, what is wrong)`."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(f"{place(loc)}: {text}" for loc, text in self.problems))

    def as_invalid(self, loc: Loc) -> InvalidRequestError:
        """Return the contract's error for a document that stood at `loc` of a request."""
        errors = [{"loc": [*loc, *inner], "msg": text} for inner, text in self.problems]
        return InvalidRequestError("the catalog does not hold", errors=errors[:MAX_PROBLEMS])


def place(loc: Loc) -> str:
    """Return a place as people read it: `routes[0].chain[1].targets[0].weight`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".") or "the document"


def parse_catalog(raw: Any, complete: Complete = completed) -> Catalog:
    """Return the catalog of a JSON value from outside, completed by what is out of the box.

    `complete` does that, and may add more behind what is written.

    Raises `CatalogError` with every problem: a field that is not known, a value that does not
    fit, a name that leads nowhere, a route or target that could never be taken.
    """
    try:
        written = Catalog.model_validate(raw, extra="forbid")
    except ValidationError as invalid:
        raise CatalogError(_misfits(invalid)) from invalid
    catalog = complete(written)
    if found := list(problems(catalog)):
        raise CatalogError(found)
    return catalog


def problems(catalog: Catalog) -> Iterator[Problem]:
    """Find everything that keeps a catalog from being used as it is written."""
    yield from _twice("backends", (entry.name for entry in catalog.backends), "name")
    yield from _twice("models", (entry.model_id for entry in catalog.models), "model_id")
    yield from _twice("routes", ((r.name, r.operation) for r in catalog.routes), "name")
    backends = {entry.name: entry for entry in catalog.backends}
    models = {entry.model_id: entry for entry in catalog.models}
    for at, backend in enumerate(catalog.backends):
        yield from _under(("backends", at), _of_backend(backend))
    for at, model in enumerate(catalog.models):
        yield from _under(("models", at), _of_model(model, backends))
    for at, route in enumerate(catalog.routes):
        yield from _under(("routes", at), _of_route(route, models, backends))


def _misfits(invalid: ValidationError) -> Iterator[Problem]:
    found = invalid.errors(include_url=False, include_context=False, include_input=False)
    above = {error["loc"][:length] for error in found for length in range(len(error["loc"]))}
    for error in found:
        if error["loc"] in above:  # a list that lacks only what is wrong in it
            continue
        known = error["type"] != "extra_forbidden"
        yield error["loc"], error["msg"] if known else "is no field of the catalog"


def _under(loc: Loc, found: Iterable[Problem]) -> Iterator[Problem]:
    return (((*loc, *inner), text) for inner, text in found)


def _twice(part: str, names: Iterable[Hashable], field: str) -> Iterator[Problem]:
    seen: Counter[Hashable] = Counter()
    for at, name in enumerate(names):
        seen[name] += 1
        if seen[name] == 2:
            yield (part, at, field), "stands twice"


def _of_backend(backend: BackendEntry) -> Iterator[Problem]:
    kind = backend.kind
    if (kind == "builtin") != (backend.name == "builtin"):
        yield ("name",), "the kind builtin and the name builtin belong together"
    if kind == "openai" and backend.base_url is None:
        yield ("base_url",), "is needed for the kind openai"
    if kind == "aws-bedrock" and backend.region is None:
        yield ("region",), "is needed for the kind aws-bedrock"
    if backend.base_url is not None and (wrong := _wrong_url(backend.base_url)):
        yield ("base_url",), wrong
    if kind in IN_PROCESS:
        for field in ("base_url", "api_key_file", "region"):
            if getattr(backend, field) is not None:
                yield (field,), f"means nothing for the kind {kind}"
    if kind == "builtin" and backend.any_model:
        yield ("any_model",), "means nothing for the kind builtin"
    for name, value in backend.headers.items():
        if wrong := _wrong_header(name, value):
            yield ("headers", name), wrong


def _wrong_url(text: str) -> str | None:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "must be http:// or https:// and a host"
    if parts.username is not None or parts.password is not None:
        return "may hold no credential: the catalog is readable"
    if parts.query or parts.fragment or any(c <= " " for c in text):
        return "may have no query, fragment or space"
    return None


def _wrong_header(name: str, value: str) -> str | None:
    if not (name.isascii() and name.replace("-", "").replace("_", "").isalnum()):
        return "is no name of a header"
    if any(word in name.lower() for word in SECRET_WORDS):
        return "may be secret: the catalog is readable; use api_key_file"
    if not value.isprintable() or len(value) > 1024:
        return "is no value of a header"
    return None


def _of_model(model: ModelEntry, backends: Mapping[str, BackendEntry]) -> Iterator[Problem]:
    backend = backends.get(model.backend)
    if backend is None:
        yield ("model_id",), f"there is no backend {model.backend!r}"
        return
    if len(set(model.capabilities)) < len(model.capabilities):
        yield ("capabilities",), "one stands twice"
    if backend.kind == "builtin":
        known = BUILTIN_MODELS.get(model.model_id)
        if known is None:
            yield ("model_id",), f"the builtin models are {', '.join(BUILTIN_MODELS)}"
        elif model.capabilities != (known,):
            yield ("capabilities",), f"this model can {known}"
    if backend.kind == "anthropic" and "embed" in model.capabilities:
        yield ("capabilities",), "the kind anthropic has no embed"
    if backend.kind == "local" and "chat" in model.capabilities:
        yield ("capabilities",), "the kind local has no chat"


def _of_route(
    route: RouteEntry, models: Mapping[str, ModelEntry], backends: Mapping[str, BackendEntry]
) -> Iterator[Problem]:
    earlier: set[str] = set()
    for number, step in enumerate(route.chain):
        at: Loc = ("chain", number, "targets")
        here = [target.model_id for target in step.targets]
        for index, target in enumerate(step.targets):
            where = (*at, index)
            yield from _under(where, _of_model_id(target.model_id, route, models, backends))
            yield from _under(where, _of_limits(target, models.get(target.model_id)))
            if target.model_id in here[:index]:
                yield (*where, "model_id"), "stands twice in this step"
            if target.model_id in earlier:
                yield (*where, "model_id"), "is never taken: an earlier step has tried it"
        yield from _under(at, _of_canaries(step.targets))
        earlier.update(t.model_id for t in step.targets if _is_plain(t))
    last = route.chain[-1].targets
    if all(target.canary is not None for target in last) and not _fills(last):
        yield ("chain", len(route.chain) - 1), "ends in a canary: not every caller has a target"
    for number, shadow in enumerate(route.shadow):
        found = _of_model_id(shadow.model_id, route, models, backends)
        yield from _under(("shadow", number), found)


def _is_plain(target: TargetEntry) -> bool:
    return target.canary is None and target.max_latency_ms is None and target.max_cost_usd is None


def _fills(targets: Iterable[TargetEntry]) -> bool:
    shares = _shares(targets)
    return any(share >= 100 for share in shares.values())


def _shares(targets: Iterable[TargetEntry]) -> dict[str, float]:
    shares = {"tenant": 0.0, "agent": 0.0}
    for target in targets:
        if target.canary is not None:
            shares[target.canary.by] += target.canary.percent
    return shares


def _of_canaries(targets: tuple[TargetEntry, ...]) -> Iterator[Problem]:
    for index, target in enumerate(targets):
        if target.canary is None:
            continue
        before = _shares(targets[:index])[target.canary.by]
        if before + target.canary.percent > 100:
            yield (index, "canary", "percent"), "the canaries before it leave less than that"


def _of_model_id(
    model_id: str,
    route: RouteEntry,
    models: Mapping[str, ModelEntry],
    backends: Mapping[str, BackendEntry],
) -> Iterator[Problem]:
    model = models.get(model_id)
    if model is not None:
        if route.operation not in model.capabilities:
            yield ("model_id",), f"is never taken: {model_id} cannot {route.operation}"
        return
    backend = backends.get(model_id.partition("/")[0])
    if backend is None or not backend.any_model:
        yield ("model_id",), f"there is no model {model_id!r}"


def _of_limits(target: TargetEntry, model: ModelEntry | None) -> Iterator[Problem]:
    if target.max_cost_usd is None:
        return
    if model is None or model.price is None:
        yield ("max_cost_usd",), "is never met: the model has no price"
    elif model.price.micro_usd(1, 1) > round(target.max_cost_usd * 1_000_000):
        yield ("max_cost_usd",), "is never met: two tokens cost more"
