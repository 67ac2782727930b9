"""Every command is answered: an error becomes the contract's error object."""

from collections.abc import Awaitable, Callable

import orjson
import structlog
from pydantic import ValidationError

from agentos.domain.errors import AgentOSError, InternalError, InvalidRequestError

log = structlog.get_logger()


async def answer_errors(name: str, answer: Callable[[], Awaitable[bytes]]) -> bytes:
    """Return the answer, or what was raised as `{"error": …}`; a bug of ours goes to the log."""
    try:
        return await answer()
    except AgentOSError as error:
        return _answer(error)
    except ValidationError as invalid:
        return _answer(invalid_request(invalid))
    except Exception:
        log.exception("command broke", command=name)
        return _answer(InternalError("the handler broke"))


def invalid_request(invalid: ValidationError) -> InvalidRequestError:
    """Return the contract's error for a command that does not fit."""
    errors = [
        {"loc": list(problem["loc"]), "msg": problem["msg"]}
        for problem in invalid.errors(include_url=False, include_context=False)
    ]
    return InvalidRequestError("the request does not fit", errors=errors)


def _answer(error: AgentOSError) -> bytes:
    return orjson.dumps({"error": error.to_wire()}, default=str)
