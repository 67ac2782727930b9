"""`tests/projections/test_writer.py` on the official images."""

from tests.projections.test_writer import *  # noqa: F403 - its tests and fixtures, collected here again
