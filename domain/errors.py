"""Every error of the contract, each with its stable code. One file maps them to HTTP."""

from collections.abc import Mapping
from typing import Any, ClassVar


class AgentOSError(Exception):
    """The root of all errors that a caller may see."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = True
    is_recorded: bool = False
    """Whether what was refused has an event, and so its audit record, already."""

    def __init__(self, message: str, /, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    def to_wire(self) -> dict[str, Any]:
        """Return the contract's error object `{code, message, retryable, details}`."""
        return {
            "code": self.code,
            "message": self.message,
            "retryable": self.details.get("retryable", self.retryable),
            "details": {k: v for k, v in self.details.items() if k != "retryable"},
        }


class InternalError(AgentOSError):
    """Something of ours broke; the log has it under the correlation id."""


class InvalidRequestError(AgentOSError):
    """A body, query or id does not fit; `details.errors` lists `{loc, msg}`."""

    code = "invalid_request"
    retryable = False


class InvalidJsonError(AgentOSError):
    """The body is not JSON."""

    code = "invalid_json"
    retryable = False


class TenantMismatchError(AgentOSError):
    """A header or a body's `auth` names a tenant other than the credential's."""

    code = "tenant_mismatch"
    retryable = False


class UnauthorizedError(AgentOSError):
    """No credential, or one that does not verify."""

    code = "unauthorized"
    retryable = False


class ForbiddenError(AgentOSError):
    """The scope or role is missing; `details.required_scope`."""

    code = "forbidden"
    retryable = False


class TenantDisabledError(AgentOSError):
    """The tenant is disabled."""

    code = "tenant_disabled"
    retryable = False


class TenantUnknownError(AgentOSError):
    """The tenant was never created or is deleted."""

    code = "tenant_unknown"
    retryable = False


class PolicyBlockedError(AgentOSError):
    """A policy gate said no; `details` has `reasons`, `policy_outcome` and `request_id`."""

    code = "policy_blocked"
    retryable = False


class BudgetSpentError(AgentOSError):
    """The run has used the cost that its agent may use."""

    code = "budget"
    retryable = False


class NotFoundError(AgentOSError):
    """There is no such object in this tenant."""

    code = "not_found"
    retryable = False


class MethodNotAllowedError(AgentOSError):
    """The path exists, this method on it does not."""

    code = "method_not_allowed"
    retryable = False


class ConflictError(AgentOSError):
    """The id is taken, or an idempotency key was used for a different body."""

    code = "conflict"
    retryable = False


class InvalidStateTransitionError(AgentOSError):
    """The object's state forbids it; `details.status`."""

    code = "invalid_state_transition"
    retryable = False


class CursorExpiredError(AgentOSError):
    """The events asked for lie before the log's start; `details.first_sequence`."""

    code = "cursor_expired"
    retryable = False


class PayloadTooLargeError(AgentOSError):
    """The body is over the configured size."""

    code = "payload_too_large"
    retryable = False


class RateLimitedError(AgentOSError):
    """A rate is spent; `details.retry_after_ms` says when to come back."""

    code = "rate_limited"


class QuotaExceededError(AgentOSError):
    """A limit is reached; `details` has limit, used, and window and resets_at where they are."""

    code = "quota_exceeded"


class ProviderError(AgentOSError):
    """A backend answered wrongly."""

    code = "provider_error"


class ForwardFailedError(AgentOSError):
    """A peer did not take a run: it cannot be reached, or refuses this node; `details.stack_id`."""

    code = "forward_failed"


class EventsProxyFailedError(AgentOSError):
    """A remote run's events cannot be had, neither from its peer nor from a copy."""

    code = "events_proxy_failed"


class DependencyUnavailableError(AgentOSError):
    """NATS, PostgreSQL, a model backend or a peer cannot be reached; `details.dependency`."""

    code = "dependency_unavailable"


class TimedOutError(AgentOSError):
    """It took longer than its limit."""

    code = "timeout"


class SlowConsumerError(AgentOSError):
    """A stream's client reads too slowly and was cut off; it can resume."""

    code = "slow_consumer"


class ToolFailedError(AgentOSError):
    """A tool said no or broke; the run goes on, the model sees it."""

    code = "tool_failed"
    retryable = False


class ModelFailedError(AgentOSError):
    """A model's answer was a failure with a code that is none of ours."""

    code = "model_failed"
    retryable = False


class InterruptedRunError(AgentOSError):
    """A call that must not be made twice may have been made; a person decides."""

    code = "interrupted"
    retryable = False


class MaxStepsError(AgentOSError):
    """The run used all its steps."""

    code = "max_steps"
    retryable = False


class SubjectErasedError(AgentOSError):
    """The content was a data subject's whose key is destroyed: nobody can read or write it."""

    code = "erased"
    retryable = False


class AppendConflictError(Exception):
    """Another writer was first: the subject's last position is not the expected one.

    Never leaves the process: whoever appends reads on and decides again.
    """


def error_from_wire(wire: Mapping[str, Any]) -> AgentOSError:
    """Return the error that `AgentOSError.to_wire` described (an unknown code: internal).

    What of it does not have its shape is left out: it may come from elsewhere.
    """
    kind = BY_CODE.get(str(wire.get("code")), InternalError)
    found = wire.get("details")
    details = {str(name): value for name, value in found.items()} if isinstance(found, dict) else {}
    details.pop("retryable", None)
    error = kind(str(wire.get("message", "")), **details)
    retryable = wire.get("retryable")
    if isinstance(retryable, bool) and retryable != kind.retryable:
        error.details["retryable"] = retryable
    return error


BY_CODE: Mapping[str, type[AgentOSError]] = {
    kind.code: kind
    for kind in (
        InternalError,
        InvalidRequestError,
        InvalidJsonError,
        TenantMismatchError,
        UnauthorizedError,
        ForbiddenError,
        TenantDisabledError,
        TenantUnknownError,
        PolicyBlockedError,
        BudgetSpentError,
        NotFoundError,
        MethodNotAllowedError,
        ConflictError,
        InvalidStateTransitionError,
        CursorExpiredError,
        PayloadTooLargeError,
        RateLimitedError,
        QuotaExceededError,
        ProviderError,
        ForwardFailedError,
        EventsProxyFailedError,
        DependencyUnavailableError,
        TimedOutError,
        SlowConsumerError,
        ToolFailedError,
        ModelFailedError,
        InterruptedRunError,
        MaxStepsError,
        SubjectErasedError,
    )
}
