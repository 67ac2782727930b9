"""Every line of every process is one JSON object of the contract's shape."""

import json
import subprocess
import sys

_PROGRAM = """
import logging, structlog
from agentos.infra.logging import configure_logging
configure_logging("gateway", "info")
log = structlog.get_logger()
log.info("run accepted", run_id="run_1", tenant_id="tnt_a")
log.debug("not shown")
with structlog.contextvars.bound_contextvars(correlation_id="corr_1"):
    logging.getLogger("a.library").warning("it says %s", "this")
extra = {"correlation_id": "corr_2", "trace_id": "t", "password": "s3cret"}
logging.getLogger("a.library").error("whose", extra=extra)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("it broke")
"""


def test_lines_have_the_contracts_fields() -> None:
    output = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    ).stdout
    first, second, whose, third = (json.loads(line) for line in output.splitlines())
    assert list(first)[:4] == ["time", "level", "service", "message"]
    assert first["message"] == "run accepted"
    assert (first["level"], first["service"], first["run_id"]) == ("info", "gateway", "run_1")
    assert first["time"].endswith("Z")
    assert len(first["time"]) == 24
    assert second["message"] == "it says this"
    assert second["correlation_id"] == "corr_1"
    assert (whose["correlation_id"], whose["trace_id"]) == ("corr_2", "t")
    assert "s3cret" not in output
    assert "ZeroDivisionError" in third["exception"]
