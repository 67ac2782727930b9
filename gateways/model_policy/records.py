"""A call's outcome as the contract's `response`: what is answered, and kept for a repeat."""

from collections.abc import Mapping
from typing import Any

from agentos.domain.ports import EmbedAnswer, ModelAnswer, RequestedToolCall, Usage
from agentos.gateways.model_policy.calls import Completed, Embedded, Outcome

Record = dict[str, Any]


def completed_record(completed: Completed) -> Record:
    """Return the contract's `response` of a chat call."""
    answer = completed.answer
    output = {
        "type": "chat",
        "message": {"role": "assistant", "content": answer.content},
        "tool_calls": [_call(call) for call in answer.tool_calls],
        "finish_reason": answer.finish_reason,
    }
    return _record(completed.outcome, output, answer.usage)


def _call(call: RequestedToolCall) -> Record:
    record = {
        "tool_call_id": call.tool_call_id,
        "tool_id": call.tool_id,
        "name": call.name,
        "arguments": call.arguments,
    }
    return record if call.policy is None else {**record, "policy": call.policy}


def embedded_record(embedded: Embedded) -> Record:
    """Return the contract's `response` of an embedding call: always arrays of numbers."""
    vectors = [
        {"index": index, "vector": list(vector)}
        for index, vector in enumerate(embedded.answer.vectors)
    ]
    output = {"type": "embedding", "embeddings": vectors}
    return _record(embedded.outcome, output, embedded.answer.usage)


def completed_of(record: Mapping[str, Any]) -> Completed:
    """Return the chat call that a record is of."""
    output, outcome = record["output"], _outcome(record)
    answer = ModelAnswer(
        content=output["message"]["content"],
        tool_calls=tuple(
            RequestedToolCall(
                c["tool_call_id"], c["tool_id"], c["name"], c["arguments"], c.get("policy")
            )
            for c in output["tool_calls"]
        ),
        usage=_usage(record),
        backend=outcome.backend,
        model=outcome.model,
        cost_usd=outcome.cost_usd,
        fallback_used=outcome.fallback_used,
        finish_reason=output["finish_reason"],
        gates=record["policy_outcome"],
        node=outcome.node,
    )
    return Completed(answer, outcome)


def embedded_of(record: Mapping[str, Any]) -> Embedded:
    """Return the embedding call that a record is of."""
    outcome = _outcome(record)
    vectors = [one["vector"] for one in record["output"]["embeddings"]]
    return Embedded(EmbedAnswer(vectors, _usage(record), outcome.backend, outcome.model), outcome)


def _record(outcome: Outcome, output: Mapping[str, Any], usage: Usage) -> Record:
    return {
        "request_id": outcome.request_id,
        "status": "ok",
        "output": output,
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        },
        "latency_ms": outcome.latency_ms,
        "cost_usd": outcome.cost_usd,
        "policy_outcome": outcome.policy(),
        "route": outcome.route(),
    }


def _outcome(record: Mapping[str, Any]) -> Outcome:
    policy, route = record["policy_outcome"], record["route"]
    return Outcome(
        request_id=record["request_id"],
        decision=policy["decision"],
        reasons=tuple(policy["reasons"]),
        redactions=tuple(policy["redactions"]),
        backend=route["backend"],
        model=route["model"],
        node=route["node"],
        fallback_used=route["fallback_used"],
        latency_ms=record["latency_ms"],
        cost_usd=record["cost_usd"],
    )


def _usage(record: Mapping[str, Any]) -> Usage:
    usage = record["usage"]
    return Usage(usage["input_tokens"], usage["output_tokens"])
