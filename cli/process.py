"""`python -m agentos.cli.process NAME`: one of AgentOS's own processes."""

import asyncio
import gc
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

from agentos.infra.logging import configure_logging
from agentos.infra.node.marker import read_marker
from agentos.infra.node.paths import NodePaths
from agentos.infra.settings import Settings

# Each is a function `main(settings)` that runs until SIGTERM.
PROCESSES = {
    "gateway": "agentos.gateways.app",
    "handlers": "agentos.handlers.app",
    "executor": "agentos.handlers.executor.app",
    "projector": "agentos.projections.app",
    "auditor": "agentos.handlers.auditor.app",
    "tracer": "agentos.projections.traces.app",
}

_LOGS = "agentos logs prepare"
_NEXT = {
    "LogVanishedError": "restore the stream in NATS from a backup; to begin anew with no data: "
    "agentos up --data-dir PATH",
    "LogMismatchError": "use another NATS account, or correct the stream",
    "ModelsFileError": "correct the file, then: agentos config check",
}
_FAILED = {"ModelsFileError": "models"}


def main(arguments: list[str]) -> int:
    """Run the named process until it is told to stop; `prepare` is the one that ends by itself."""
    name, steps = arguments[0], [a for a in arguments[1:] if not a.startswith("--")]
    settings = Settings.load()
    if name == "prepare":
        return prepare(settings, steps)
    named = [a.removeprefix("--name=") for a in arguments if a.startswith("--name=")]
    settings = replace(settings, process_name=named[0] if named else "")
    configure_logging(name, settings.log_level)
    run: Callable[[Settings], None] = import_module(PROCESSES[name]).main
    _collect_seldom()
    run(settings)
    return 0


def _collect_seldom() -> None:
    """Look for garbage in cycles seldom, and never among what the modules made.

    A batch of events is thousands of live objects: a search through all objects at each finds
    nothing, and took a third of a busy handler's time.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def prepare(settings: Settings, steps: list[str]) -> int:
    """Load what the steps need, wait for a line on standard input, then report each step.

    A report is one JSON object a line; `{"failed", "message", "next"}` ends it with code 1.
    """
    from agentos.handlers.app import publish_models, seed  # noqa: PLC0415 - heavy
    from agentos.infra.jetstream.streams import provision  # noqa: PLC0415 - heavy

    sys.stdin.readline()

    async def work() -> None:
        known = bool(read_marker(NodePaths(settings.data_dir)).get("log_created"))
        url = settings.runtime().nats_url
        await provision(url, durability=settings.durability, expect_log=known)
        _report(step="provision", detail="found" if known else "made")
        _report(step="catalog", catalog=await publish_models(settings))
        if "seed" in steps:
            _report(step="seed", seeded=await seed(settings))

    try:
        asyncio.run(work())
    except Exception as exc:  # the outermost: whatever it is, `up` hears why, and it goes on up
        message = str(exc) or type(exc).__name__
        name = type(exc).__name__
        _report(failed=_FAILED.get(name, "log"), message=message, next=_NEXT.get(name, _LOGS))
        raise
    return 0


def _report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
