"""Which backend answers a `model_ref`: `<backend>/<model>`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from agentos.domain.auth import AuthContext
from agentos.domain.errors import ForbiddenError, InvalidRequestError
from agentos.domain.ports import ModelAnswer, ModelPort, ModelRequest
from agentos.infra.models.builtin import BuiltinModels
from agentos.infra.models.openai_compatible import OpenAICompatibleModels


class ModelBackend(ModelPort, Protocol):
    """The models behind one prefix, and how to let go of what they hold open."""

    async def aclose(self) -> None:
        """Close every connection."""
        ...


class Models:
    """All models of this node, behind `ModelPort`."""

    def __init__(self, backends: Mapping[str, ModelBackend]) -> None:
        self._backends = dict(backends)

    async def invoke(
        self,
        auth: AuthContext,
        request: ModelRequest,
        on_delta: Callable[[str], None] | None = None,
    ) -> ModelAnswer:
        """Ask the backend that the model's name begins with.

        Raises `ForbiddenError` without the scope `models:invoke`, `InvalidRequestError` for
        a name without a known backend, and what that backend raises.
        """
        if "models:invoke" not in auth.scopes:
            raise ForbiddenError("models may not be called", required_scope="models:invoke")
        name, slash, _ = request.model_ref.partition("/")
        backend = self._backends.get(name) if slash else None
        if backend is None:
            raise InvalidRequestError(
                "no such model: a name is <backend>/<model>",
                model_ref=request.model_ref,
                known_backends=sorted(self._backends),
            )
        return await backend.invoke(auth, request, on_delta)

    async def aclose(self) -> None:
        """Close all backends."""
        for backend in self._backends.values():
            await backend.aclose()


def build_models(
    *,
    openai_base_url: str | None = None,
    openai_api_key: str | None = None,
    openai_models: Sequence[str] = (),
) -> Models:
    """Return the builtin models, and those of an OpenAI-compatible server where one is named.

    Nothing is connected before the first call. `ValueError` for a base URL that is none.
    """
    backends: dict[str, ModelBackend] = {"builtin": BuiltinModels()}
    if openai_base_url:
        backends["openai"] = OpenAICompatibleModels(openai_base_url, openai_api_key, openai_models)
    return Models(backends)
