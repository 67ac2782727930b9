"""The routes of agents: list, get, register, new version, deprecate."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from agentos.domain.agent.agent import Definition
from agentos.domain.auth import AuthContext
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.authorization import require
from agentos.gateways.http.bodies import BodyAuth, narrowed, parse_body, read_body, read_raw
from agentos.gateways.http.call import Call, call_of
from agentos.gateways.orchestrator.parts import parts_of
from agentos.gateways.orchestrator.queries import AGENT_ID, CURSOR, LIMIT, read_command_id
from agentos.gateways.orchestrator.reading import load_agent
from agentos.gateways.orchestrator.schemas import AgentDeprecate, AgentRegister, AgentUpdate


async def list_agents(request: Request) -> Answer:
    """List the tenant's agents by id. It may lag by a second."""
    call = call_of(request.scope)
    page = await parts_of(request).reads.list_agents(
        call.caller.tenant_id, LIMIT.read(request) or 0, CURSOR.raw(request)
    )
    content: dict[str, Any] = {"agents": [row.view() for row in page.agents]}
    if page.next_cursor is not None:
        content["next_cursor"] = page.next_cursor
    return json_answer(content, call.correlation_id)


async def get_agent(request: Request) -> Answer:
    """Return one agent in its newest version."""
    call = call_of(request.scope)
    agent = await load_agent(parts_of(request), call.caller.tenant_id, AGENT_ID.read(request))
    return json_answer({"agent": agent}, call.correlation_id)


async def register_agent(request: Request) -> Answer:
    """Register an agent; 409 when the id is taken."""
    call = call_of(request.scope)
    body = await read_body(request, AgentRegister)
    auth = _narrowed(call, body.auth)
    more = {"definition": _definition(body)}
    return await _send(request, "agent.register", auth, body.agent_id, more, status=201)


async def update_agent(request: Request) -> Answer:
    """Give an agent a new version; 409 when it had this version before."""
    call = call_of(request.scope)
    agent_id = AGENT_ID.read(request)
    body = await read_body(request, AgentUpdate)
    auth = _narrowed(call, body.auth)
    return await _send(request, "agent.update", auth, agent_id, {"definition": _definition(body)})


async def deprecate_agent(request: Request) -> Answer:
    """Let an agent take no new runs."""
    call = call_of(request.scope)
    agent_id = AGENT_ID.read(request)
    raw = await read_raw(request)
    body = parse_body(raw, AgentDeprecate) if raw.strip() else AgentDeprecate()
    return await _send(request, "agent.deprecate", _narrowed(call, body.auth), agent_id, {})


def _narrowed(call: Call, body: BodyAuth | None) -> AuthContext:
    auth = narrowed(call.caller, body)
    require(auth, "agents:write")
    return auth


def _definition(body: AgentUpdate) -> dict[str, Any]:
    return body.model_dump(mode="json", include=set(Definition.model_fields))


async def _send(
    request: Request,
    name: str,
    auth: AuthContext,
    agent_id: str,
    more: Mapping[str, Any],
    status: int = 200,
) -> Answer:
    call = call_of(request.scope)
    command = {
        "agent_id": agent_id,
        "traceparent": call.traceparent,
        "correlation_id": call.correlation_id,
        "command_id": read_command_id(request),
        **more,
    }
    answer = await parts_of(request).bus.send(name, auth, command)
    return json_answer({"agent": answer["agent"]}, call.correlation_id, status)
