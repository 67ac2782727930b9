"""Who is behind a model, by OpenTelemetry's names."""

from collections.abc import Mapping
from typing import Final

from agentos.domain.models.catalog import BackendKind, Catalog

NAMES: Final[Mapping[BackendKind, str]] = {
    "builtin": "agentos",
    "local": "agentos",
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "gcp.gemini",
    "aws-bedrock": "aws.bedrock",
}


class Providers:
    """The providers of one catalog: what it says of a model, else what its backend speaks."""

    def __init__(self, catalog: Catalog) -> None:
        self._kinds = {backend.name: NAMES[backend.kind] for backend in catalog.backends}
        self._named = {m.model_id: m.provider for m in catalog.models if m.provider}

    def of(self, backend: str, model: str) -> str:
        """Return the provider's name; a backend that is not in the catalog is its own."""
        named = self._named.get(f"{backend}/{model}")
        return named or self._kinds.get(backend, backend)
