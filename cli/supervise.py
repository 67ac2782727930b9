"""`python -m agentos.cli.supervise`: the background process that `agentos up` starts."""

import asyncio
import sys
from importlib.metadata import version

from agentos.infra.node.supervisor import Supervisor
from agentos.infra.settings import Settings


def main() -> int:
    """Keep the node that the environment describes until it is told to stop."""
    return asyncio.run(Supervisor(Settings.load(), version("agentos")).run())


if __name__ == "__main__":
    sys.exit(main())
