"""What becomes of a bug in a handler: an answer, and a log line that says whose request it was."""

from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from agentos.handlers.middleware.errors import answer_errors
from tests.domain.given import TRACE


async def broken() -> bytes:
    """Break as no handler should."""
    raise ZeroDivisionError


async def said(message: Any) -> dict[str, Any]:
    with capture_logs() as lines:
        answer = orjson.loads(await answer_errors("run.create", broken, message))
    assert answer["error"]["code"] == "internal_error"
    (line,) = lines
    return dict(line)


async def test_the_log_says_whose_request_it_was() -> None:
    command = {"traceparent": TRACE, "correlation_id": "corr_1", "request": {"text": "s3cret"}}
    line = await said({"auth": {"tenant_id": "tnt_a"}, "command": command})
    assert (line["tenant_id"], line["correlation_id"]) == ("tnt_a", "corr_1")
    assert (line["trace_id"], line["span_id"]) == (TRACE[3:35], TRACE[36:52])
    assert "s3cret" not in str(line)


@pytest.mark.parametrize("message", [None, 7, {}, {"auth": None, "command": {}}, {"auth": {}}])
async def test_whatever_was_asked_is_answered(message: Any) -> None:
    line = await said(message)
    assert line["command"] == "run.create"
