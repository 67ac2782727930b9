"""`tests/contracts/test_command_bus.py` on the official images."""

from tests.contracts.test_command_bus import *  # noqa: F403 - its tests and fixtures, collected here again
