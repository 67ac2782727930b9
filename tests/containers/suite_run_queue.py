"""`tests/contracts/test_run_queue.py` on the official images."""

from tests.contracts.test_run_queue import *  # noqa: F403 - its tests and fixtures, collected here again
