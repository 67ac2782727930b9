"""Logs of the handlers' tests are kept, not printed: a drawn traceback takes seconds."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep the test's log lines to itself."""
    with capture_logs():
        yield
