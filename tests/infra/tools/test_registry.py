import asyncio
from typing import Any

import pytest

from agentos.domain.auth import AuthContext
from agentos.domain.errors import InvalidRequestError, NotFoundError, ToolFailedError
from agentos.domain.ports import ToolCall
from agentos.infra.tools.build import build_tools
from agentos.infra.tools.key_value import MemoryKeyValue
from agentos.infra.tools.registry import MAX_OUTPUT_BYTES, Tools
from agentos.infra.tools.tool import Arguments, Tool, make_tool
from tests.infra.tools.calls import call, caller


class Numbers(Arguments):
    count: int = 0


def giving(output: Any) -> Tool[Numbers]:
    async def run(auth: AuthContext, call: ToolCall, arguments: Numbers) -> Any:
        if isinstance(output, BaseException):
            raise output
        return output

    return make_tool("tool.mine", "", Numbers, run)


async def test_a_node_has_these_tools() -> None:
    kv = MemoryKeyValue()
    tools = build_tools(kv=kv, http_allowlist=[], allow_private=False, more=[giving(1)])
    assert [spec.tool_id for spec in tools.specs()] == [
        "tool.calculate",
        "tool.echo",
        "tool.http.fetch",
        "tool.kv.get",
        "tool.kv.put",
        "tool.mine",
        "tool.time",
    ]
    assert await tools.call(caller(), call("tool.mine")) == 1


def test_a_tool_id_stands_once_and_is_possible() -> None:
    with pytest.raises(ValueError, match=r"tool\.mine"):
        Tools([giving(1), giving(2)])
    spec = giving(1)
    with pytest.raises(ValueError, match="nature"):
        make_tool("tool.x", "", Numbers, spec.run, nature="check")


async def test_arguments_that_do_not_fit_are_named() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await Tools([giving(1)]).call(caller(), call("tool.mine", count="many", other=1))
    assert [error["loc"] for error in caught.value.details["errors"]] == [["count"], ["other"]]


async def test_an_output_at_the_limit_passes_and_one_over_it_fails() -> None:
    fits = "x" * (MAX_OUTPUT_BYTES - 2)
    assert await Tools([giving(fits)]).call(caller(), call("tool.mine")) == fits
    with pytest.raises(ToolFailedError) as caught:
        await Tools([giving(fits + "x")]).call(caller(), call("tool.mine"))
    assert caught.value.details["bytes"] == MAX_OUTPUT_BYTES + 1


@pytest.mark.parametrize("output", [object(), "\ud800", {"a": {1: object()}}])
async def test_an_output_that_is_no_json_fails(output: Any) -> None:
    with pytest.raises(ToolFailedError):
        await Tools([giving(output)]).call(caller(), call("tool.mine"))


async def test_a_tools_own_timeout_is_its_failure() -> None:
    with pytest.raises(ToolFailedError):
        await Tools([giving(TimeoutError())]).call(caller(), call("tool.mine"))


async def test_a_tool_that_cancels_itself_is_no_timeout() -> None:
    with pytest.raises(asyncio.CancelledError):
        await Tools([giving(asyncio.CancelledError())]).call(caller(), call("tool.mine"))


async def test_an_unknown_tool_is_not_found_and_only_check_tools_are_asked() -> None:
    tools = Tools([giving(1)])
    assert tools.spec("tool.none") is None
    with pytest.raises(NotFoundError):
        await tools.call(caller(), call("tool.none"))
    with pytest.raises(InvalidRequestError):
        await tools.check(caller(), call("tool.mine"))
