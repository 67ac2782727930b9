"""Which backend answers a `model_ref` of the executor: `<backend>/<model>`, tried again twice."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import Final

from agentos.domain.auth import AuthContext
from agentos.domain.errors import AgentOSError, ForbiddenError, InvalidRequestError
from agentos.domain.models.catalog import BackendEntry
from agentos.domain.ports import ModelAnswer, ModelBackend, ModelRequest, OnDelta
from agentos.infra.models.build import make_backend

RETRIES: Final = 2
FIRST_WAIT_S: Final = 0.25
MAX_WAIT_S: Final = 8.0


class Models:
    """All models of this node, behind `ModelPort`. `known` says what a backend may be asked for."""

    def __init__(
        self, backends: Mapping[str, ModelBackend], known: Mapping[str, frozenset[str]]
    ) -> None:
        self._backends = dict(backends)
        self._known = dict(known)

    async def invoke(
        self, auth: AuthContext, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Ask the backend that the model's name begins with.

        What has not begun to answer and may pass is asked again twice, with jitter and not
        before the server's `Retry-After`, as far as the request's timeout allows. Raises
        `ForbiddenError` without the scope `models:invoke`, `InvalidRequestError` for a name
        without a known backend or model, and what that backend raises.
        """
        if "models:invoke" not in auth.scopes:
            raise ForbiddenError("models may not be called", required_scope="models:invoke")
        name, slash, model = request.model_ref.partition("/")
        backend = self._backends.get(name) if slash else None
        if backend is None:
            raise InvalidRequestError(
                "no such model: a name is <backend>/<model>",
                model_ref=request.model_ref,
                known_backends=sorted(self._backends),
            )
        known = self._known.get(name)
        if not model or (known and model not in known):
            raise InvalidRequestError(
                "the backend has no such model",
                model_ref=request.model_ref,
                known=sorted(known or ()),
            )
        deadline = time.monotonic() + request.timeout_ms / 1000
        for attempt in range(RETRIES):
            try:
                return await backend.chat(auth, model, request, on_delta)
            except AgentOSError as error:
                wait = _wait_s(attempt, error)
                if wait is None or time.monotonic() + wait >= deadline:
                    raise
            await asyncio.sleep(wait)
        return await backend.chat(auth, model, request, on_delta)

    async def aclose(self) -> None:
        """Close all backends."""
        for backend in self._backends.values():
            await backend.aclose()


def _wait_s(attempt: int, error: AgentOSError) -> float | None:
    """Return how long to wait before another attempt, `None` if it would not help."""
    if not error.to_wire()["retryable"] or error.details.get("stage") != "answer":
        return None
    if error.code == "timeout":
        return None
    most = min(MAX_WAIT_S, FIRST_WAIT_S * 2.0**attempt)
    jittered = random.uniform(most / 2, most)  # noqa: S311 - spreads load, guards nothing
    return float(error.details.get("retry_after_ms", 0)) / 1000 + jittered


def build_models(
    *,
    openai_base_url: str | None = None,
    openai_api_key: str | None = None,
    openai_models: Sequence[str] = (),
) -> Models:
    """Return the builtin models, and those of an OpenAI-compatible server where one is named.

    Nothing is connected before the first call. `ValueError` for a base URL that is none.
    """
    entries: list[tuple[BackendEntry, str | None]] = [
        (BackendEntry(name="builtin", kind="builtin"), None)
    ]
    if openai_base_url:
        entry = BackendEntry(name="openai", kind="openai", base_url=openai_base_url)
        entries.append((entry, openai_api_key))
    backends = {entry.name: make_backend(entry, key) for entry, key in entries}
    return Models(backends, {"openai": frozenset(openai_models)})
