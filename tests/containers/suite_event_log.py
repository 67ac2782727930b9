"""`tests/contracts/test_event_log.py` on the official images."""

from tests.contracts.test_event_log import *  # noqa: F403 - its tests and fixtures, collected here again
