"""Every command is answered: an error becomes the contract's error object."""

from typing import Any

import orjson
import structlog
from faststream import BaseMiddleware
from pydantic import ValidationError

from agentos.domain.errors import AgentOSError, InternalError, InvalidRequestError

log = structlog.get_logger()


class AnswerErrors(BaseMiddleware):
    """Turns what a handler raises into `{"error": …}`; the log keeps what is not a caller's."""

    async def consume_scope(self, call_next: Any, msg: Any) -> Any:
        """Call the handler; answer its error."""
        try:
            return await call_next(msg)
        except AgentOSError as error:
            return _answer(error)
        except ValidationError as invalid:
            return _answer(invalid_request(invalid))
        except Exception:
            log.exception("command broke", subject=msg.raw_message.subject)
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
