"""`tests/contracts/test_tool_port.py` on the official images."""

from tests.contracts.test_tool_port import *  # noqa: F403 - its tests and fixtures, collected here again
