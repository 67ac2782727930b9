"""`tests/projections/test_runner.py` on the official images."""

from tests.projections.test_runner import *  # noqa: F403 - its tests and fixtures, collected here again
