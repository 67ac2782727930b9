"""`python -m tests.containers`: the contract suites on the official images, where they can run.

Where no container engine answers it says so, does nothing, and ends with 0.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def engine() -> str:
    """Return the version of the container engine that answers, `""` when there is none."""
    program = shutil.which("docker")
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def main(arguments: list[str]) -> int:
    """Run the suites; returns pytest's exit code, 0 where nothing could be run."""
    found = engine()
    if not found:
        print("no container engine answers here: nothing was run")
        return 0
    print(f"container engine {found}")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-e", ".[dev,containers]"], check=True, cwd=ROOT)
    # Pulling an image counts as the first test's time.
    options = ["-o", "python_files=suite_*.py", "--timeout", "900", "tests/containers"]
    suites = [sys.executable, "-m", "pytest", *options, *arguments]
    return subprocess.run(suites, check=False, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
