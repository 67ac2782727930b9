"""`tests/contracts/test_signals.py` on the official images."""

from tests.contracts.test_signals import *  # noqa: F403 - its tests and fixtures, collected here again
