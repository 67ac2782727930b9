"""Recorded model calls, one by one: those of runs from their events, the others from their usage.

A run's messages are in its log, so what its calls said can be looked at again. Of a direct call
only what was found in it is known (`agentos.usage.recorded`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from agentos.domain.envelope import read_line
from agentos.domain.log import Recorded
from agentos.domain.privacy.bodies import CallBody
from agentos.domain.run.events import (
    FINAL_TYPES,
    ModelCompleted,
    RunCreated,
    ToolCallCompleted,
)
from agentos.domain.times import to_ms
from agentos.domain.usage.usage import Usage, UsageRecorded

LOOKED_AT: Final = frozenset({RunCreated.TYPE, ModelCompleted.TYPE, ToolCallCompleted.TYPE})
Texts = tuple[str, ...]
Source = Literal["events", "bodies", "findings", "nothing"]


@dataclass(frozen=True, slots=True)
class Call:
    """One model call as it was made, and what was decided of it.

    A run's call has its `texts` by direction; a direct one the `findings`, counted by direction
    and kind (`None`: nobody looked), and its texts where its body was kept. `cost_micro` is in
    millionths of a dollar. Of an `erased` run's call there are counts and cost alone.
    """

    tenant_id: str
    time_ms: int
    request_id: str
    operation: str
    model_ref: str
    backend: str
    model: str
    status: str
    decision: str
    input_tokens: int
    output_tokens: int
    cost_micro: int
    run_id: str | None = None
    agent_id: str | None = None
    principal_id: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, Texts] = field(default_factory=dict)
    tools: tuple[tuple[str, Texts], ...] = ()
    findings: Mapping[str, Mapping[str, int]] | None = None
    erased: bool = False

    @property
    def source(self) -> Source:
        """What there is to judge it by."""
        if self.erased:
            return "nothing"
        if self.run_id is not None:
            return "events"
        if self.texts:
            return "bodies"
        return "nothing" if self.findings is None else "findings"

    def with_body(self, body: CallBody) -> "Call":
        """Return a direct call with its texts, where they were kept."""
        texts = {"input": body.input, "tool_output": body.tool_output, "output": body.output}
        return replace(self, texts=texts, tools=body.tools, context=body.context)


@dataclass(slots=True)
class _Talk:
    """A run under way: who it is of, and all that its next call would say."""

    created: dict[str, Any]
    agent_id: str
    said: list[str]
    heard: list[str] = field(default_factory=list)


class Traffic:
    """Reads records in the order of the log; holds only the runs that are under way."""

    def __init__(self) -> None:
        self._talks: dict[tuple[str, str], _Talk] = {}

    def feed(self, record: Recorded) -> Iterator[Call]:
        """Yield the calls that ended in a commit."""
        if record.ref.kind == Usage.KIND:
            for line in record.lines():
                inner = read_line(line)
                if inner["type"] == UsageRecorded.TYPE and not inner["payload"].get("run_id"):
                    yield _direct(inner)
            return
        yield from self._of_run(record)

    def _of_run(self, record: Recorded) -> Iterator[Call]:
        key = (record.ref.tenant_id, record.ref.aggregate_id)
        if LOOKED_AT.isdisjoint(record.types):
            lines: list[bytes] = []
        else:
            lines = record.lines()
        for kind, line in zip(record.types, lines, strict=False):
            if kind not in LOOKED_AT:
                continue
            inner = read_line(line)
            payload = inner["payload"]
            if kind == RunCreated.TYPE:
                self._talks[key] = _Talk(payload, inner["agent_id"], [payload["input"]["text"]])
            elif (talk := self._talks.get(key)) is None:
                continue
            elif kind == ToolCallCompleted.TYPE:
                texts = _texts(payload["error"] or payload["output"])
                talk.said += texts
                talk.heard += texts
            else:
                yield replace(_of_run(inner, talk), erased=not record.readable)
                if (message := payload["message"]) is not None:
                    talk.said.append(message["content"])
                    talk.said += _texts([c["arguments"] for c in message["tool_calls"]])
        if record.types and record.types[-1] in FINAL_TYPES:
            self._talks.pop(key, None)


def _of_run(inner: Mapping[str, Any], talk: _Talk) -> Call:
    payload, created = inner["payload"], talk.created
    message = payload["message"] or {"content": "", "tool_calls": []}
    texts = {"input": tuple(talk.said), "tool_output": tuple(talk.heard)}
    texts["output"] = (message["content"],)
    tools = tuple((c["tool_id"], tuple(_texts(c["arguments"]))) for c in message["tool_calls"])
    return Call(
        tenant_id=inner["tenant_id"],
        time_ms=to_ms(inner["time"]),
        request_id=payload["request_id"],
        operation=payload["operation"],
        model_ref=payload["model_ref"],
        backend=payload["route"]["backend"],
        model=payload["route"]["model"],
        status=payload["status"],
        decision=payload["policy_outcome"]["decision"],
        input_tokens=payload["usage"]["input_tokens"],
        output_tokens=payload["usage"]["output_tokens"],
        cost_micro=round(payload["cost_usd"] * 1_000_000),
        run_id=inner["run_id"],
        agent_id=talk.agent_id,
        principal_id=created["principal"]["principal_id"],
        context=created["policy_context"],
        labels=created["context"].get("labels") or {},
        texts=texts,
        tools=tools,
    )


def _direct(inner: Mapping[str, Any]) -> Call:
    payload = inner["payload"]
    policy = payload.get("policy") or {}
    return Call(
        tenant_id=inner["tenant_id"],
        time_ms=to_ms(inner["time"]),
        request_id=payload["request_id"],
        operation=payload["operation"],
        model_ref=payload["model_ref"],
        backend=payload["backend"],
        model=payload["model"],
        status=payload["status"],
        decision=policy.get("decision", "allowed"),
        input_tokens=payload["usage"]["input_tokens"],
        output_tokens=payload["usage"]["output_tokens"],
        cost_micro=round(payload["cost_usd"] * 1_000_000),
        agent_id=payload.get("agent_id"),
        principal_id=inner["principal"]["principal_id"],
        findings=policy.get("findings"),
    )


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [str(value)]
    if isinstance(value, dict):
        return [*value, *(text for part in value.values() for text in _texts(part))]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return []
