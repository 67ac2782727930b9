"""Model gateways side by side: the same chat completions, to the same mock model, by turns."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version as own_version
from pathlib import Path
from typing import Any, Final

from agentos.infra.node.ports import pick_port
from tests.bench.load import LoadError
from tests.bench.peers.peer import ENVIRONMENTS, PeerError, Server, install, version
from tests.bench.rows.models import CLIENTS, Side, Trials, gateway, later, mock_model, request

KEY: Final = "sk-bench"
PORTKEY: Final = "@portkey-ai/gateway"
QUIET: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOG": "ERROR",
}
Named = tuple[str, Side]
Lines = list[tuple[str, str, list[float]]]


async def run_model_gateways(*, seconds: float, runs: int) -> dict[str, Any]:
    """Measure each of them; one that cannot be had is named and left out."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(mock_model())
        sides = {"direct": Side(upstream, request("Bearer none", "mock"))}
        for start in (_ours, _litellm, _portkey):
            try:
                name, side = await stack.enter_async_context(start(upstream))
            except (TimeoutError, PeerError, OSError) as exc:
                print(f"not measured, going on: {exc}", flush=True)
                continue
            sides[name] = side
            await side.whole(4, count=200)
        kept = {name: Trials() for name in sides}
        for _ in range(runs):
            for name, side in sides.items():
                kept[name].rate.append((await side.whole(CLIENTS, seconds=seconds)).rate)
                await side.alone(kept[name], count=400)
                try:
                    await side.streamed(kept[name], count=200)
                except LoadError as exc:
                    print(f"{name} did not stream: {exc}", flush=True)
    return {"version": "side by side", "figures": _lines(kept)}


def _lines(kept: dict[str, Trials]) -> Lines:
    direct = kept.pop("direct")
    lines: Lines = [(f"straight to the mock model, {CLIENTS} clients", "/s", direct.rate)]
    for name, found in kept.items():
        lines += [
            (f"{name}, {CLIENTS} clients", "/s", found.rate),
            (f"{name}, added p50, one client alone", "ms", later(found.p50, direct.p50)),
            (f"{name}, added p99, one client alone", "ms", later(found.p99, direct.p99)),
        ]
        if found.first:
            lines.append((f"{name}, first text later, p50", "ms", later(found.first, direct.first)))
    return lines


@asynccontextmanager
async def _ours(upstream: int) -> AsyncIterator[Named]:
    async with gateway(upstream) as node:
        asked = request(node.authorization, "openai/mock")
        yield f"AgentOS {own_version('agentos')}", Side(node.second_port, asked)


@asynccontextmanager
async def _litellm(upstream: int) -> AsyncIterator[Named]:
    """LiteLLM's proxy with one worker and a master key; no database, so no budget and no log."""
    programs = install("litellm", ("litellm[proxy]",))
    to = {"model": "openai/mock", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": "mock", "litellm_params": to}],
        "general_settings": {"master_key": KEY},
    }
    with tempfile.TemporaryDirectory(prefix="aos-litellm-") as home:
        (Path(home) / "config.yaml").write_text(json.dumps(config))
        port = pick_port()
        argv = [str(programs / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1"]
        argv += ["--port", str(port), "--num_workers", "1"]
        async with _running(Server(argv, port, Path(home), {**os.environ, **QUIET})):
            asked = request(f"Bearer {KEY}", "mock")
            yield f"LiteLLM {version(programs, 'litellm')}", Side(port, asked)


@asynccontextmanager
async def _portkey(upstream: int) -> AsyncIterator[Named]:
    """Portkey's gateway: no key check, no budget, no log."""
    package = _npm_install("portkey", PORTKEY)
    name = f"Portkey {json.loads((package / 'package.json').read_text())['version']}"
    with tempfile.TemporaryDirectory(prefix="aos-portkey-") as home:
        port = pick_port()
        script = package / "build" / "start-server.js"
        argv = ["node", str(script), f"--port={port}", "--headless"]
        async with _running(Server(argv, port, Path(home))):
            headers = {
                "x-portkey-provider": "openai",
                "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
            }
            yield name, Side(port, request("Bearer none", "mock", headers))


@asynccontextmanager
async def _running(server: Server) -> AsyncIterator[None]:
    await server.start()
    try:
        yield
    finally:
        server.kill()


def _npm_install(name: str, package: str) -> Path:
    """Install an npm package into `.bench/<name>` once; returns its directory."""
    home = ENVIRONMENTS / name
    installed = home / "node_modules" / package
    if not installed.exists():
        if shutil.which("npm") is None:
            raise PeerError(f"{package} needs npm")
        home.mkdir(parents=True, exist_ok=True)
        argv = ["npm", "install", "--no-fund", "--no-audit", "--prefix", str(home), package]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PeerError(f"{package} cannot be installed: {done.stderr.strip()[-400:]}")
    return installed
