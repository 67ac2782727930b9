"""`tests/contracts/test_log_model.py` on the official images."""

from tests.contracts.test_log_model import *  # noqa: F403 - its tests and fixtures, collected here again
