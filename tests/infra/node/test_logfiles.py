"""What of a log is shown when a start failed."""

import json
from pathlib import Path

from agentos.infra.node.logfiles import sizes_of, troubles_of
from agentos.infra.node.paths import NodePaths

NATS = """\
[7] 2026/11/21 04:00:00.1 [INF] Starting nats-server
[7] 2026/11/21 04:00:00.1 [INF]   Version:  2.12.1
[7] 2026/11/21 04:00:00.1 [WRN] Plaintext passwords detected, use nkeys or bcrypt
[7] 2026/11/21 04:00:00.1 [WRN] Filestore is slow
[7] 2026/11/21 04:00:00.2 [ERR] no space left on device
"""
POSTGRES = """\
2026-11-21 04:00:00 UTC [9] LOG:  starting PostgreSQL 17
2026-11-21 04:00:00 UTC [9] FATAL:  could not create lock file
2026-11-21 04:00:00 UTC [9] HINT:  Is another one running?
"""


def _node(root: Path) -> NodePaths:
    paths = NodePaths(root / "data")
    paths.create()
    return paths


def test_only_what_went_wrong_in_this_start_is_shown(tmp_path: Path) -> None:
    paths = _node(tmp_path)
    paths.log_of("nats").write_text("[1] [ERR] of last week\n")
    before = sizes_of(paths)
    with paths.log_of("nats").open("a") as log:
        log.write(NATS)
    paths.log_of("postgres").write_text(POSTGRES)
    assert troubles_of(paths, "nats", before["nats"]) == NATS.splitlines()[3:]
    assert troubles_of(paths, "postgres") == POSTGRES.splitlines()[1:]
    assert troubles_of(paths, "nobody") == []


def test_a_traceback_stays_and_there_are_eight_lines_at_most(tmp_path: Path) -> None:
    paths = _node(tmp_path)
    said = [json.dumps({"level": level, "message": "x"}) for level in ("info", "debug", "error")]
    paths.log_of("gateway").write_text("\n".join([*said, "", "Traceback:", "  x = 1 / 0"]))
    assert troubles_of(paths, "gateway") == [said[2], "Traceback:", "  x = 1 / 0"]
    paths.log_of("gateway").write_text("\n".join(f"line {n}" for n in range(30)))
    assert troubles_of(paths, "gateway") == [f"line {n}" for n in range(22, 30)]
