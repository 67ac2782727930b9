import pytest

from agentos.domain.errors import ForbiddenError, InvalidRequestError
from agentos.infra.models.router import build_models
from tests.infra.models.openai_server import openai_server, text_stream
from tests.infra.models.requests import caller, request


async def test_the_prefix_chooses_the_backend() -> None:
    async with openai_server(text_stream("from afar")) as server:
        models = build_models(openai_base_url=server.base_url, openai_api_key="k")
        try:
            near = await models.invoke(caller(), request("builtin/echo", "near"))
            far = await models.invoke(caller(), request("openai/m", "x"))
        finally:
            await models.aclose()
    assert (near.content, far.content) == ("near", "from afar")


@pytest.mark.parametrize("ref", ["tier:fast", "echo", "openai/m", "/echo", "", "Builtin/echo"])
async def test_a_name_without_a_known_backend_is_invalid(ref: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await build_models().invoke(caller(), request(ref, "x"))
    assert caught.value.details["known_backends"] == ["builtin"]


async def test_without_the_scope_nothing_is_asked() -> None:
    auth = caller(scopes=frozenset({"tools:invoke"}))
    with pytest.raises(ForbiddenError) as caught:
        await build_models().invoke(auth, request("builtin/echo", "x"))
    assert caught.value.details == {"required_scope": "models:invoke"}
