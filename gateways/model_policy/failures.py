"""What a failed attempt means: try again, try another model, or tell the caller."""

from dataclasses import dataclass
from typing import Final

from agentos.domain.errors import AgentOSError, InvalidRequestError, PolicyBlockedError
from agentos.domain.ports import Usage
from agentos.gateways.model_policy.backends import QUEUE

OF_THE_BACKEND: Final = frozenset(
    {"provider_error", "dependency_unavailable", "timeout", "rate_limited"}
)
MISCONFIGURED: Final = frozenset({401, 403, 404})
PASSING: Final = frozenset({408, 429})


@dataclass(frozen=True, slots=True)
class Meaning:
    """`again`: the same target may answer yet. `elsewhere`: another may. `blame`: it is sick."""

    again: bool
    elsewhere: bool
    blame: bool


TELL: Final = Meaning(again=False, elsewhere=False, blame=False)


def meaning_of(error: AgentOSError) -> Meaning:
    """Return what to make of an attempt's error.

    What the server thinks of the request itself (400, 413, 422 …) is told to the caller and
    held against nobody, else one caller's bad requests would open the breaker for all. A key
    that is refused or a model that is gone is the node's fault: another target may do.
    """
    status = error.details.get("status")
    if isinstance(error, PolicyBlockedError):  # this content may not go to this model
        return Meaning(again=False, elsewhere=True, blame=False)
    if isinstance(error, InvalidRequestError):
        return Meaning(again=False, elsewhere=status == 404, blame=False)
    if error.code not in OF_THE_BACKEND:
        return TELL
    if error.details.get("stage") == QUEUE:
        return Meaning(again=False, elsewhere=True, blame=False)
    if isinstance(status, int) and 400 <= status < 500 and status not in PASSING:
        if status not in MISCONFIGURED:
            return TELL
        return Meaning(again=False, elsewhere=True, blame=status != 404)
    again = bool(error.details.get("retryable", error.retryable)) and error.code != "timeout"
    return Meaning(again=again, elsewhere=True, blame=True)


def usage_of(error: AgentOSError) -> Usage | None:
    """Return what a call that broke off is known to have used."""
    found = error.details.get("usage")
    if not isinstance(found, dict):
        return None
    return Usage(int(found.get("input_tokens", 0)), int(found.get("output_tokens", 0)))
