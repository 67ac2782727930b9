"""The one place where a backend's entry in the catalog becomes the code that calls it."""

from typing import Final

from agentos.domain.models.catalog import BackendEntry
from agentos.domain.ports import ModelBackend
from agentos.infra.models.anthropic import AnthropicBackend
from agentos.infra.models.bedrock import BedrockBackend, credentials_of
from agentos.infra.models.builtin import BuiltinBackend
from agentos.infra.models.google import GoogleBackend
from agentos.infra.models.local import LocalBackend
from agentos.infra.models.openai import OpenAIBackend
from agentos.infra.models.upstream import Upstream

ANTHROPIC_URL: Final = "https://api.anthropic.com"
ANTHROPIC_VERSION: Final = "2023-06-01"
GOOGLE_URL: Final = "https://generativelanguage.googleapis.com/v1beta"


def make_backend(entry: BackendEntry, key: str | None = None) -> ModelBackend:
    """Return the backend of an entry; nothing is connected before its first call.

    `key` is the vendor's API key; for `aws-bedrock` an API key, or an access key
    `<id>:<secret>[:<session token>]`. `ValueError` for a base URL or a key that cannot be
    used, and for a missing one without which there is nothing to ask.
    """
    match entry.kind:
        case "builtin":
            return BuiltinBackend(entry.name)
        case "local":
            return LocalBackend(entry.name)
        case "openai":
            return OpenAIBackend(_upstream(entry, entry.base_url or "", key, _bearer(key)))
        case "anthropic":
            headers = {
                "anthropic-version": ANTHROPIC_VERSION,
                **({"x-api-key": key} if key else {}),
            }
            return AnthropicBackend(_upstream(entry, entry.base_url or ANTHROPIC_URL, key, headers))
        case "google":
            headers = {"x-goog-api-key": key} if key else {}
            return GoogleBackend(_upstream(entry, entry.base_url or GOOGLE_URL, key, headers))
        case "aws-bedrock":
            return _bedrock(entry, key)


def _bedrock(entry: BackendEntry, key: str | None) -> ModelBackend:
    if entry.region is None or key is None:
        raise ValueError("the kind aws-bedrock needs a region and a key")
    url = entry.base_url or f"https://bedrock-runtime.{entry.region}.amazonaws.com"
    credentials = credentials_of(key)
    headers = _bearer(key) if credentials is None else {}
    return BedrockBackend(_upstream(entry, url, key, headers), entry.region, credentials)


def _upstream(
    entry: BackendEntry, base_url: str, key: str | None, headers: dict[str, str]
) -> Upstream:
    parts = key.split(":") if key and entry.kind == "aws-bedrock" else []
    return Upstream(
        entry.name,
        base_url,
        headers={**entry.headers, **headers},
        secrets=tuple(filter(None, (key, *parts))),
        timeouts=entry.timeouts,
        max_concurrency=entry.max_concurrency,
    )


def _bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}
