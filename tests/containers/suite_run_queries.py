"""`tests/projections/runs/test_queries.py` on the official images."""

from tests.projections.runs.test_queries import *  # noqa: F403 - its tests and fixtures, collected here again
