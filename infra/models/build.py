"""The one place where a backend's entry in the catalog becomes the code that calls it."""

from agentos.domain.models.catalog import BackendEntry
from agentos.domain.ports import ModelBackend
from agentos.infra.models.builtin import BuiltinBackend
from agentos.infra.models.openai import OpenAIBackend
from agentos.infra.models.upstream import Upstream


def make_backend(entry: BackendEntry, key: str | None = None) -> ModelBackend:
    """Return the backend of an entry; nothing is connected before its first call.

    `ValueError` for a base URL or a key that cannot be used.
    """
    if entry.kind == "builtin":
        return BuiltinBackend(entry.name)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return OpenAIBackend(
        Upstream(
            entry.name,
            entry.base_url or "",
            headers={**entry.headers, **headers},
            secrets=(key,) if key else (),
            timeouts=entry.timeouts,
            max_concurrency=entry.max_concurrency,
        )
    )
