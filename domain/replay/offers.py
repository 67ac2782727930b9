"""The tools that a recorded attempt knew, as far as its decisions look at them."""

from collections.abc import Sequence

from agentos.domain.agent.agent import Definition
from agentos.domain.envelope import Event
from agentos.domain.ports import ToolSpec
from agentos.domain.run.advance import Plan, make_plan
from agentos.domain.run.events import (
    ModelRequested,
    OfferedTool,
    ToolCallCompleted,
    ToolCallRequested,
)
from agentos.domain.run.run import Run


def plan_of_attempt(run: Run, definition: Definition, tools: Sequence[OfferedTool]) -> Plan:
    """Return the plan of an attempt that wrote down its tools."""
    specs = {tool.tool_id: _spec(tool.tool_id, tool.timeout_ms) for tool in tools}
    return make_plan(run, definition, specs.get)


def plan_of_commit(run: Run, definition: Definition, events: Sequence[Event]) -> Plan:
    """Return the plan behind one commit of an attempt that did not write down its tools.

    Logs of before decision 017: what was called was allowed, what was refused was not, and a
    model that had tools had all the others of the agent.
    """
    payloads = [event.payload for event in events]
    called = {p.tool_id: p.timeout_ms for p in payloads if isinstance(p, ToolCallRequested)}
    refused = {p.tool_id for p in payloads if isinstance(p, ToolCallCompleted)} - called.keys()
    asked = [p for p in payloads if isinstance(p, ModelRequested)]
    offered = asked[-1].input_summary.has_tools if asked else False

    def spec(tool_id: str) -> ToolSpec | None:
        if tool_id in called:
            return _spec(tool_id, called[tool_id])
        return _spec(tool_id, 1) if offered and tool_id not in refused else None

    return make_plan(run, definition, spec)


def _spec(tool_id: str, timeout_ms: int) -> ToolSpec:
    return ToolSpec(tool_id, "", {}, "idempotent", timeout_ms)
