import asyncio
from pathlib import Path

import pytest

from agentos.infra.tools.build import build_tools
from agentos.infra.tools.key_value import MemoryKeyValue
from agentos.infra.tools.probe import PROBES, calls_file
from agentos.infra.tools.registry import Tools
from tests.infra.tools.calls import call, caller


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return build_tools(
        kv=MemoryKeyValue(), http_allowlist=[], allow_private=False, probe_dir=tmp_path
    )


@pytest.mark.parametrize("name", PROBES)
async def test_every_call_leaves_a_line(tools: Tools, tmp_path: Path, name: str) -> None:
    calls = [call(f"tool.probe.{name}", key) for key in ("a", "b", "a")]
    outputs = [await tools.call(caller(), each) for each in calls]
    assert calls_file(tmp_path, name).read_text() == "a\nb\na\n"
    assert outputs[0] == outputs[2] != outputs[1]
    spec = tools.spec(f"tool.probe.{name}")
    assert spec is not None
    assert spec.nature == PROBES[name]


async def test_check_tells_whether_the_call_was_made(tools: Tools) -> None:
    made, other = call("tool.probe.check", "a", label="x"), call("tool.probe.check", "aa")
    assert await tools.check(caller(), made) is None
    output = await tools.call(caller(), made)
    assert await tools.check(caller(), made) == output
    assert await tools.check(caller(), other) is None


async def test_the_line_is_there_while_the_probe_still_sleeps(tools: Tools, tmp_path: Path) -> None:
    running = asyncio.create_task(
        tools.call(caller(), call("tool.probe.once", "a", sleep_ms=60_000))
    )
    path = calls_file(tmp_path, "once")
    async with asyncio.timeout(5):
        while not path.exists() or not path.read_text():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.005)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_without_a_directory_there_are_no_probes() -> None:
    tools = build_tools(kv=MemoryKeyValue(), http_allowlist=[], allow_private=False)
    assert all("probe" not in spec.tool_id for spec in tools.specs())
