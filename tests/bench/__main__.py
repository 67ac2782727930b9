"""`python -m tests.bench`: every figure of the speed table, beside floors of the same run."""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.machine import (
    describe_machine,
    end_cleanly_on_sigterm,
    fsyncs_per_second,
    raise_file_limit,
)
from tests.bench.plan import CREATED_BYTES, Plan, Row
from tests.bench.rows.accept import accept
from tests.bench.rows.admission import admission
from tests.bench.rows.audit import audit
from tests.bench.rows.federation import federation
from tests.bench.rows.growth import growth
from tests.bench.rows.idle import idle
from tests.bench.rows.models import models
from tests.bench.rows.policy import policy
from tests.bench.rows.rebuild import rebuild
from tests.bench.rows.replay import replay
from tests.bench.rows.resume import resume
from tests.bench.rows.runs import runs
from tests.bench.rows.streams import streams
from tests.bench.stats import Figure, markdown

ROWS: dict[str, Row] = {
    "accept": accept,
    "admission": admission,
    "runs": runs,
    "models": models,
    "federation": federation,
    "policy": policy,
    "streams": streams,
    "rebuild": rebuild,
    "audit": audit,
    "replay": replay,
    "resume": resume,
    "idle": idle,
    "growth": growth,
}


def main() -> int:
    """Measure the rows that are asked for; exits with 1 when one of them could not be."""
    asked = _arguments()
    raise_file_limit()
    end_cleanly_on_sigterm()
    plan = Plan(quick=asked.quick)
    machine = describe_machine() | {
        "fsyncs_per_second": round(fsyncs_per_second(CREATED_BYTES)),
        "durability": "power (fsync before the acknowledgement)",
        "command": _command(),
    }
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    figures, failures = _measure(asked.only, plan)
    print(f"\n{markdown(figures)}\nload average at the end: {os.getloadavg()[0]:.1f}")
    for name, text in failures.items():
        print(f"\n{name} could not be measured: {text}")
    if asked.json:
        content = {"machine": machine, "figures": [f.to_json() for f in figures]}
        Path(asked.json).write_text(json.dumps(content | {"failures": failures}, indent=1))
    return 1 if failures else 0


def _measure(names: Sequence[str], plan: Plan) -> tuple[list[Figure], dict[str, str]]:
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    for name in names:
        began = time.monotonic()
        try:
            measured: list[Figure] = uvloop.run(_as_coroutine(ROWS[name], plan))
        except Exception as exc:  # noqa: BLE001 - one row's failure must not lose the others
            traceback.print_exc()
            failures[name] = f"{type(exc).__name__}: {exc}"
            continue
        figures += measured
        print(f"\n{name}, {time.monotonic() - began:.0f} s\n{markdown(measured)}", flush=True)
    return figures, failures


async def _as_coroutine(row: Row, plan: Plan) -> list[Figure]:
    return await row(plan)


def _command() -> str:
    long = "BENCH=long " if os.environ.get("BENCH") == "long" else ""
    return " ".join([f"{long}python -m tests.bench", *sys.argv[1:]])


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--only", type=_names, default=list(ROWS), help=f"rows, of {','.join(ROWS)}"
    )
    parser.add_argument("--quick", action="store_true", help="smaller and shorter; for a look")
    parser.add_argument("--json", metavar="FILE", help="write everything measured there too")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise argparse.ArgumentTypeError(f"no rows {unknown}; there are {', '.join(ROWS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
