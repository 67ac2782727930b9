from typing import Any

import pytest

from agentos.domain.errors import AgentOSError, InvalidRequestError
from agentos.infra.tools.build import build_tools
from agentos.infra.tools.key_value import MemoryKeyValue
from agentos.infra.tools.registry import Tools
from tests.infra.tools.calls import call, caller


class Noon:
    def now_ms(self) -> int:
        return 1_767_225_600_123  # 2026-01-01T00:00:00.123Z


@pytest.fixture
def tools() -> Tools:
    return build_tools(kv=MemoryKeyValue(), http_allowlist=[], allow_private=False, clock=Noon())


@pytest.mark.parametrize("arguments", [{"text": "hi"}, {}, {"text": None}, {"a": [1, {"b": 2.5}]}])
async def test_echo_gives_back_what_it_got(tools: Tools, arguments: dict[str, Any]) -> None:
    assert await tools.call(caller(), call("tool.echo", **arguments)) == arguments


@pytest.mark.parametrize(
    ("expression", "output"),
    [("6 * 7", 42), ("1 / 4", 0.25), ("2 ** 53 - 1", 2**53 - 1), ("2 ** 53", str(2**53))],
)
async def test_calculate_gives_numbers_that_json_can_hold(
    tools: Tools, expression: str, output: Any
) -> None:
    assert await tools.call(caller(), call("tool.calculate", expression=expression)) == output


async def test_calculate_keeps_its_code(tools: Tools) -> None:
    with pytest.raises(AgentOSError) as caught:
        await tools.call(caller(), call("tool.calculate", expression="1 / 0"))
    assert caught.value.code == "tool_failed"


async def test_time_is_told_in_utc_and_where_one_is(tools: Tools) -> None:
    assert await tools.call(caller(), call("tool.time")) == {
        "time": "2026-01-01T00:00:00.123Z",
        "timezone": "UTC",
        "local": "2026-01-01T00:00:00+00:00",
    }
    tokyo = await tools.call(caller(), call("tool.time", timezone="Asia/Tokyo"))
    assert tokyo["local"] == "2026-01-01T09:00:00+09:00"


@pytest.mark.parametrize("name", ["Mars/Base", "../../etc/passwd", "/etc/localtime", "America", ""])
async def test_a_time_zone_that_is_none_is_invalid(tools: Tools, name: str) -> None:
    with pytest.raises(InvalidRequestError):
        await tools.call(caller(), call("tool.time", timezone=name))
