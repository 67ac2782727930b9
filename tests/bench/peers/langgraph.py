"""LangGraph's in-memory development server: nothing durable, not its production runtime."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from agentos.infra.node.ports import pick_port
from tests.bench.peers.peer import APPS, Server, install, measure, plain_request, rate, version

PACKAGES: Final = ("langgraph-cli[inmem]",)


async def run_langgraph(*, seconds: float, runs: int) -> dict[str, Any]:
    """Measure it; raises `PeerError` when it cannot be installed or started."""
    programs = install("langgraph", PACKAGES)
    with tempfile.TemporaryDirectory(prefix="aos-langgraph-") as home:
        shutil.copy(APPS / "langgraph_app.py", home)
        config = {"dependencies": ["."], "graphs": {"three": "./langgraph_app.py:make_graph"}}
        (Path(home) / "langgraph.json").write_text(json.dumps(config))
        port = pick_port()
        argv = [str(programs / "langgraph"), "dev", "--no-browser", "--no-reload"]
        argv += ["--port", str(port), "--n-jobs-per-worker", "32"]
        quiet = {"LANGSMITH_TRACING": "false", "LANGGRAPH_NO_ANALYTICS": "1", "LOG_LEVEL": "ERROR"}
        server = Server(argv, port, Path(home), environment={**os.environ, **quiet})
        await server.start()
        try:
            body = '{"assistant_id":"three","input":{"text":"hello @"}}'
            request = plain_request("/runs/wait", body)
            many, alone = await measure(port, request, 200, seconds=seconds, runs=runs, alone=10)
            crowd = [
                await rate(port, request, 200, seconds=seconds, clients=256) for _ in range(runs)
            ]
        finally:
            server.kill()
    lines = [
        ("graph runs of three steps, 32 clients", "/s", many),
        ("the same, 256 clients", "/s", crowd),
        ("one alone, p50", "ms", alone),
    ]
    return {"version": version(programs, "langgraph-api"), "figures": lines}
