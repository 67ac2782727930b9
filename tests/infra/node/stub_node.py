"""A node whose own processes are stubs, run by the real supervisor over real servers."""

import asyncio
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

from agentos.infra.node.child import Spec
from agentos.infra.node.leftovers import SUPERVISOR_MODULE
from agentos.infra.node.paths import NodePaths
from agentos.infra.node.supervisor import Supervisor
from agentos.infra.settings import Settings
from tests.infra.embedded import reserved_port

ROOT = Path(__file__).parents[3]


def environment(data: Path, **more: str) -> dict[str, str]:
    """Return the environment of a node in `data`, on ports of its own."""
    own = {
        "AGENTOS_DATA_DIR": str(data),
        "AGENTOS_REPORTS_DIR": str(data.parent / f"{data.name}-reports"),
        "AGENTOS_ORCHESTRATOR_PORT": str(reserved_port()),
        "AGENTOS_MODEL_POLICY_PORT": str(reserved_port()),
        "AGENTOS_FEDERATION_PORT": str(reserved_port()),
        "AGENTOS_DURABILITY": "process",
        "PYTHONPATH": str(ROOT),
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AGENTOS_")}
    return {**kept, **own, **more}


def start_stub_node(environ: dict[str, str], *arguments: str) -> "subprocess.Popen[bytes]":
    """Start the supervisor with stubs; with `dying` one that ends at once is its gateway."""
    data = Path(environ["AGENTOS_DATA_DIR"])
    command = [sys.executable, __file__, "supervise", SUPERVISOR_MODULE, f"--node={data}"]
    NodePaths(data).create()
    with NodePaths(data).log_of("supervisor").open("ab") as log:
        return subprocess.Popen([*command, *arguments], env=environ, stdout=log, stderr=log)


def _workers(settings: Settings) -> list[Spec]:
    mark = NodePaths(settings.data_dir).mark
    environ = {**settings.child_environment(), "PYTHONPATH": str(ROOT)}
    names = ["dying" if "dying" in sys.argv else "gateway", "executor-1", "executor-2"]
    return [
        Spec(
            name=name,
            argv=[sys.executable, __file__, name.partition("-")[0], mark],
            directory=settings.data_dir,
            environment=environ,
            stop_grace=2,
        )
        for name in names
    ]


class _Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


def _gateway(settings: Settings) -> None:
    servers = [HTTPServer(("127.0.0.1", port), _Ready) for port in settings.ports.values()]
    threads = [Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()


def main() -> int:
    """Be the process that the first argument names."""
    match sys.argv[1]:
        case "supervise":
            supervisor = Supervisor(Settings.load(), "0.0.0", _workers, prepare=False)
            return asyncio.run(supervisor.run())
        case "gateway":
            _gateway(Settings.load())
        case "executor":
            print("executor at work", flush=True)
            asyncio.run(asyncio.sleep(3600))
        case "dying":
            print("the reason it dies", flush=True)
            return 7
    return 0


if __name__ == "__main__":
    sys.exit(main())
