"""What `make test-containers` does where there is no engine, and that it forgets no suite."""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SERVERS = re.compile(r"\b(nats_server|postgres_server)\b")


def test_without_an_engine_it_says_so_and_does_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.containers"],
        env=os.environ | {"DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "no container engine answers here: nothing was run\n"


def test_every_contract_on_a_server_has_a_suite() -> None:
    named = "".join(path.read_text() for path in HERE.glob("suite_*.py"))
    for path in (ROOT / "tests" / "contracts").glob("test_*.py"):
        if SERVERS.search(path.read_text()):
            assert f"tests.contracts.{path.stem} import" in named, path.name
