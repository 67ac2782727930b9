"""Every command is answered: an error becomes the contract's error object."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog
from pydantic import ValidationError

from agentos.domain.errors import AgentOSError, InternalError, InvalidRequestError
from agentos.domain.tracing.ids import log_fields

log = structlog.get_logger()


async def answer_errors(
    name: str, answer: Callable[[], Awaitable[bytes]], message: Any = None
) -> bytes:
    """Return the answer, or what was raised as `{"error": …}`; a bug of ours goes to the log.

    `message` is what was asked, `{auth, command}`: only ids of it are logged.
    """
    try:
        return await answer()
    except AgentOSError as error:
        return _answer(error)
    except ValidationError as invalid:
        return _answer(invalid_request(invalid))
    except Exception:  # the outermost of a command: a caller without a reply would wait
        log.exception("command broke", command=name, **_whose(message))
        return _answer(InternalError("the handler broke"))


def _whose(message: Any) -> dict[str, str]:
    """Return the log's fields of whoever asked, as far as they can be made out."""
    try:
        auth, command = message["auth"], message["command"]
        found = {
            "tenant_id": str(auth["tenant_id"]),
            **log_fields(str(command["traceparent"])),
        }
        if correlation_id := command.get("correlation_id"):
            found["correlation_id"] = str(correlation_id)
    except (AttributeError, KeyError, TypeError):
        return {}
    return found


def invalid_request(invalid: ValidationError) -> InvalidRequestError:
    """Return the contract's error for a command that does not fit."""
    errors = [
        {"loc": list(problem["loc"]), "msg": problem["msg"]}
        for problem in invalid.errors(include_url=False, include_context=False)
    ]
    return InvalidRequestError("the request does not fit", errors=errors)


def _answer(error: AgentOSError) -> bytes:
    return orjson.dumps({"error": error.to_wire()}, default=str)
