"""A whole node whose models come from a file: routed, out of one server, changed while it runs."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from tests.infra.models.openai_server import OpenAIServer, openai_server, status, text_stream
from tests.journeys.real_node import RealNode

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEY = "sk-a-key-that-must-never-be-seen-0123456789"


def document(first: str, second: str, **route: Any) -> dict[str, Any]:
    backends = [
        {"name": "first", "kind": "openai", "base_url": first, "api_key_file": "first.key"},
        {"name": "second", "kind": "openai", "base_url": second},
    ]
    price = {"input_per_million": 1000, "output_per_million": 2000}
    models = [
        {"model_id": "first/m", "tier": "fast", "price": price},
        {"model_id": "second/m", "tier": "fast"},
    ]
    fast = {
        "name": "tier:fast",
        "chain": [{"targets": [{"model_id": m}]} for m in ("first/m", "second/m")],
        "retries": {"attempts": 2, "base_backoff_ms": 1},
    }
    return {"backends": backends, "models": models, "routes": [fast | route]}


class Setting:
    """A node with two servers behind it."""

    def __init__(self, node: RealNode, first: OpenAIServer, second: OpenAIServer) -> None:
        self.node, self.first, self.second = node, first, second
        self.file = node.directory / "models.json"

    def write(self, content: Any) -> None:
        self.file.write_text(content if isinstance(content, str) else json.dumps(content))

    async def chat(self, model: str) -> tuple[str, dict[str, Any]]:
        """Ask through the official client; return the text and what AgentOS says of the call."""
        key = self.node.token("tnt_demo")
        base = f"{self.node.door('model_policy')}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0) as client:
            answer = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "hi"}]
            )
        found: dict[str, Any] = answer.model_extra["agentos"]  # type: ignore[index]  # always there
        return answer.choices[0].message.content or "", found

    def models(self, *arguments: str) -> dict[str, Any]:
        done = self.node.command("models", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def setting() -> AsyncIterator[Setting]:
    async with openai_server() as first, openai_server() as second:
        node = RealNode()
        found = Setting(node, first, second)
        found.write(document(first.base_url, second.base_url))
        node.settings["AGENTOS_MODELS_FILE"] = str(found.file)
        keys = node.data / "model_keys"
        keys.mkdir(parents=True)
        (keys / "first.key").write_text(KEY)
        try:
            node.up()
            yield found
        finally:
            node.remove()


async def test_the_file_is_what_routes_calls(setting: Setting) -> None:
    setting.first.replies[:] = [text_stream("from the first")]
    text, about = await setting.chat("tier:fast")
    assert text == "from the first"
    assert about["route"]["backend"] == "first"
    assert not about["route"]["fallback_used"]
    assert about["cost_usd"] == pytest.approx((11 * 1000 + 7 * 2000) / 1e6)
    assert setting.first.headers[-1]["Authorization"] == f"Bearer {KEY}"
    assert setting.models("list")["version"] == 1


async def test_another_server_takes_over(setting: Setting) -> None:
    setting.first.replies[:] = [status(503, "busy")]
    setting.second.replies[:] = [text_stream("from the second")]
    text, about = await setting.chat("tier:fast")
    assert text == "from the second"
    assert about["route"]["fallback_used"]
    assert "Authorization" not in setting.second.headers[-1]
    async with (
        aiohttp.ClientSession(setting.node.door("model_policy")) as http,
        http.get("/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    count = 'agentos_model_requests_total{backend="first",model="m",outcome="provider_error"} 2.0'
    assert count in lines
    assert 'agentos_backend_up{backend="first"} 1.0' in lines


async def test_what_an_admin_publishes_holds_at_once_and_over_a_restart(setting: Setting) -> None:
    setting.second.replies[:] = [text_stream("from the second")]
    shown = setting.models("show")["catalog"]["document"]
    only = [{"targets": [{"model_id": "second/m"}]}]
    shown["routes"] = [r for r in shown["routes"] if r["operation"] == "chat"]
    shown["routes"][0]["chain"] = only
    path = setting.node.directory / "published.json"
    path.write_text(json.dumps(shown))
    assert setting.models("publish", str(path))["catalog"]["version"] == 2
    text, about = await setting.chat("tier:fast")
    assert (text, about["route"]["fallback_used"]) == ("from the second", False)
    setting.node.down()
    setting.node.up()
    assert [v["source"] for v in setting.models("versions")["versions"]] == ["api", "file"]
    setting.write(document(setting.first.base_url, setting.second.base_url, name="quick"))
    setting.node.down()
    setting.node.up()
    versions = setting.models("versions")["versions"]
    assert [v["source"] for v in versions] == ["file", "api", "file"]
    text, about = await setting.chat("tier:fast")
    assert (text, about["route"]["backend"]) == ("hi", "builtin")


async def test_a_file_that_cannot_hold_stops_the_start(setting: Setting) -> None:
    setting.node.down()
    setting.write('{"routes": [\n  {"name": "tier:fast", "chain": []}\n]}')
    done = setting.node.command("up", "--mode", "dev")
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert f"{setting.file}:2: routes[0].chain:" in said
    assert "agentos config check" in said
    assert setting.node.command("config", "check").returncode == 1
    assert KEY not in setting.node.log_text()
