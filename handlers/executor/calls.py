"""How one call of a model or a tool is made, and what its result says in the log."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentos.domain.auth import AuthContext
from agentos.domain.envelope import fits_a_line
from agentos.domain.errors import (
    AgentOSError,
    DependencyUnavailableError,
    ForbiddenError,
    InterruptedRunError,
    ProviderError,
    TimedOutError,
    ToolFailedError,
)
from agentos.domain.policy.facts import Facts
from agentos.domain.ports import (
    CallOrigin,
    Clock,
    ModelAnswer,
    ModelPort,
    ModelRequest,
    NewId,
    RequestedToolCall,
    ToolCall,
    ToolPort,
)
from agentos.domain.run.advance import error_info
from agentos.domain.run.events import (
    AnswerMessage,
    CallInAnswer,
    CallPolicy,
    ModelCompleted,
    PolicyOutcome,
    RouteTaken,
    TokenUsage,
    ToolCallCompleted,
)
from agentos.handlers.executor.gate import ToolGate
from agentos.handlers.executor.tool_policy import governed_output

RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class Outside:
    """The world that an executor may call, and the clock that times it."""

    models: ModelPort
    tools: ToolPort
    clock: Clock
    new_id: NewId
    node: str
    gate: ToolGate | None = None
    approval_wait_ms: int | None = None
    """How long a person has to decide on a call; without it for ever."""


async def ask_model(
    outside: Outside,
    auth: AuthContext,
    request: ModelRequest,
    on_delta: Callable[[str], None] | None,
) -> ModelCompleted:
    """Make one model call within its time; a failure is a result too."""
    began = outside.clock.now_ms()
    try:
        async with asyncio.timeout(request.timeout_ms / 1000):
            answer = await outside.models.invoke(auth, request, on_delta)
        _require_readable(answer)
    except TimeoutError:
        error: AgentOSError = TimedOutError("the model took too long")
    except AgentOSError as raised:
        error = raised
    else:
        return _answered(outside, request, answer, outside.clock.now_ms() - began)
    backend, _, model = request.model_ref.partition("/")
    return ModelCompleted(
        request_id=request.request_id,
        model_ref=request.model_ref,
        status="error",
        usage=TokenUsage(input_tokens=0, output_tokens=0, total_tokens=0),
        cost_usd=0.0,
        latency_ms=max(0, outside.clock.now_ms() - began),
        policy_outcome=_outcome(error.details.get("policy_outcome")),
        route=RouteTaken(backend=backend, model=model, node=outside.node),
        message=None,
        error=error_info(error),
    )


def _outcome(gates: Mapping[str, Any] | None) -> PolicyOutcome:
    return PolicyOutcome() if gates is None else PolicyOutcome.model_validate(gates)


def _require_readable(answer: ModelAnswer) -> None:
    try:
        fits_a_line([answer.content, [[c.tool_id, c.name, c.arguments] for c in answer.tool_calls]])
    except ValueError as exc:
        raise ProviderError("the model's answer cannot be written down") from exc


def _answered(
    outside: Outside, request: ModelRequest, answer: ModelAnswer, latency_ms: int
) -> ModelCompleted:
    usage = answer.usage
    return ModelCompleted(
        request_id=request.request_id,
        model_ref=request.model_ref,
        status="ok",
        usage=TokenUsage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens,
        ),
        cost_usd=answer.cost_usd,
        latency_ms=max(0, latency_ms),
        policy_outcome=_outcome(answer.gates),
        route=RouteTaken(
            backend=answer.backend,
            model=answer.model,
            node=answer.node or outside.node,
            fallback_used=answer.fallback_used,
        ),
        message=AnswerMessage(
            content=answer.content,
            tool_calls=[
                CallInAnswer(
                    tool_call_id=call.tool_call_id,
                    tool_id=call.tool_id,
                    name=call.name,
                    arguments=dict(call.arguments),
                    policy=_policy(outside, call),
                )
                for call in answer.tool_calls
            ],
        ),
    )


def _policy(outside: Outside, call: RequestedToolCall) -> CallPolicy | None:
    if (said := call.policy) is None:
        return None
    policy = CallPolicy.model_validate(said)
    if policy.decision == "approval_required":
        return policy.model_copy(update={"wait_ms": outside.approval_wait_ms})
    return policy


async def call_tool(
    outside: Outside,
    auth: AuthContext,
    call: ToolCall,
    *,
    was_begun: bool,
    origin: CallOrigin | None = None,
) -> ToolCallCompleted:
    """Make one tool call within its time; a failure is a result too.

    Its output passes the tenant's policy before it is a result; `origin` says of which run and
    agent it is. A call that an earlier attempt has begun is settled by its tool's nature. Raises
    `InterruptedRunError` when that is for a person to decide.
    """
    began = outside.clock.now_ms()
    error: AgentOSError | None = None
    output: Any = None
    try:
        async with asyncio.timeout(call.timeout_ms / 1000):
            if outside.gate is not None and not was_begun:
                await outside.gate.admit(auth, call)
            output = await _settle(outside, auth, call, was_begun)
        _require_writable(output)
        if outside.gate is not None:
            output = await _passed(outside, outside.gate, auth, call, origin, output)
    except TimeoutError:
        error = TimedOutError("the tool took too long")
    except InterruptedRunError:
        raise
    except AgentOSError as raised:
        output, error = None, raised
    return ToolCallCompleted(
        tool_call_id=call.tool_call_id,
        tool_id=call.tool_id,
        status="ok" if error is None else "error",
        output=output,
        duration_ms=max(0, outside.clock.now_ms() - began),
        error=None if error is None else error_info(error),
    )


async def _passed(
    outside: Outside,
    gate: ToolGate,
    auth: AuthContext,
    call: ToolCall,
    origin: CallOrigin | None,
    output: Any,
) -> Any:
    """Return the output as policy lets it be used. Raises `PolicyBlockedError`.

    The call was made: a log that is away is waited for, as it is for the result.
    """
    while True:
        try:
            policy = await gate.output_policy(auth.tenant_id)
            break
        except DependencyUnavailableError:
            await asyncio.sleep(RETRY_S)
    if policy is None:
        return output
    context = auth.policy_context
    facts = Facts(
        direction="tool_output",
        tool=call.tool_id,
        data_classification=context.data_classification,
        region=context.region,
        purpose=context.purpose,
        now_ms=outside.clock.now_ms(),
        agent_id=origin.agent_id if origin else None,
        principal_id=auth.principal.principal_id,
        labels=origin.labels if origin else {},
    )
    return await governed_output(policy, output, facts)


def _require_writable(output: Any) -> None:
    try:
        fits_a_line(output)
    except ValueError as exc:
        raise ToolFailedError("the tool's output cannot be written down") from exc


async def _settle(outside: Outside, auth: AuthContext, call: ToolCall, was_begun: bool) -> Any:
    spec = outside.tools.spec(call.tool_id)
    if spec is None:
        raise ToolFailedError("the tool is gone", tool_id=call.tool_id)
    if "tools:invoke" not in auth.scopes:
        raise ForbiddenError("the caller may not use tools", required_scope="tools:invoke")
    if was_begun and spec.nature == "at_most_once":
        raise InterruptedRunError(
            "a call that must not be made twice may have been made", tool_call_id=call.tool_call_id
        )
    if was_begun and spec.nature == "check":
        output = await outside.tools.check(auth, call)
        if output is not None:
            return output
    return await outside.tools.call(auth, call)
