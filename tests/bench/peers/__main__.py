"""`python -m tests.bench.peers`: the same work on others, beside ours."""

import argparse
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import uvloop

from tests.bench.machine import describe_machine, end_cleanly_on_sigterm, raise_file_limit
from tests.bench.peers.dbos import run_dbos
from tests.bench.peers.langgraph import run_langgraph
from tests.bench.peers.model_gateways import run_model_gateways
from tests.bench.peers.ours import run_ours
from tests.bench.peers.peer import PeerError
from tests.bench.stats import Figure, markdown

Measured = dict[str, Any]
WAYS: Final[dict[str, Callable[..., Coroutine[Any, Any, Measured]]]] = {
    "AgentOS": run_ours,
    "DBOS": run_dbos,
    "LangGraph": run_langgraph,
    "models": run_model_gateways,
}
NOT_COMPARABLE: Final = """\
What is not comparable:
- DBOS is a library: its steps run inside the web server that took the request, there is no
  identity, quota, queue, event stream, read model or second process. Its resume figure is from
  the kill to the end with an immediate restart by hand: detection is not in it; ours has it.
  What it counts as repeated: step bodies that had reached their end and ran again, because their
  result was not recorded yet; ours are counted in the log, where a finished step has its result.
- DBOS writes to PostgreSQL with fsync and synchronous_commit=on, on the same disk as our log.
- LangGraph's is the in-memory development server: nothing is durable, and it is not the
  production runtime. Its queue sleeps half a second when it is idle, which may be most of what
  the figure of one client alone shows. Another setup saw 336/s at 32 clients: where ours is far
  below that, suspect the setup first.
- Ours does more: a signed token, quotas, idempotency, every intent durable before its call, and
  the events readable by anyone. An echo run is one model step; the run of three steps is a model
  call, a tool call and a model call.
- Model gateways: LiteLLM checks one master key and has no database, so no budget and no usage
  record; Portkey's open gateway checks no key, has no budget and no log. Ours verifies a signed
  token, entitlement and policy, reserves a budget, and has each call's usage in a log with fsync.
  All have one process; all ask the same mock model; they are asked by turns."""


def main() -> int:
    """Measure us and each peer that can be installed; print all, side by side."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument(
        "--only", type=_names, default=list(WAYS), help=f"some, of {','.join(WAYS)}"
    )
    parser.add_argument("--quick", action="store_true", help="shorter; for a look")
    parser.add_argument("--json", metavar="FILE", help="write everything measured there too")
    asked = parser.parse_args()
    raise_file_limit()
    end_cleanly_on_sigterm()
    machine = describe_machine()
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    size = {"seconds": 3.0, "runs": 2} if asked.quick else {"seconds": 10.0, "runs": 5}
    measured: dict[str, Measured] = {}
    for name in asked.only:
        try:
            measured[name] = uvloop.run(WAYS[name](**size))
        except (TimeoutError, PeerError, OSError) as exc:
            print(f"\n{name}: not measured, going on: {exc}", flush=True)
            continue
        print(f"\n{name} {measured[name]['version']}\n{_table(measured[name])}", flush=True)
    print(NOT_COMPARABLE)
    if asked.json:
        Path(asked.json).write_text(json.dumps({"machine": machine, **measured}, indent=1))
    return 0


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - WAYS.keys():
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}")
    return names


def _table(measured: Measured) -> str:
    figures = [Figure("peers", *line) for line in measured["figures"]]
    return markdown(figures)


if __name__ == "__main__":
    sys.exit(main())
