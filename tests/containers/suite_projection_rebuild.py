"""`tests/projections/test_rebuild.py` on the official images."""

from tests.projections.test_rebuild import *  # noqa: F403 - its tests and fixtures, collected here again
