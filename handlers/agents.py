"""The handlers of an agent's commands: register, new version, deprecate."""

from collections.abc import Callable
from typing import Any, Final

from agentos.domain.agent.agent import Agent, agent_ref
from agentos.domain.aggregate import Moment
from agentos.domain.auth import AuthContext
from agentos.domain.envelope import Event
from agentos.domain.errors import AppendConflictError, TimedOutError
from agentos.domain.log import make_commit
from agentos.handlers.commands import Command, DeprecateAgent, RegisterAgent, UpdateAgent
from agentos.handlers.parts import Parts

RACES: Final = 20


async def register_agent(parts: Parts, auth: AuthContext, command: RegisterAgent) -> dict[str, Any]:
    """Make an agent; `ConflictError` when the id is taken."""

    def decide(agent: Agent, at: Moment) -> list[Event]:
        return agent.register(command.definition, at)

    return await _decide(parts, auth, command, command.agent_id, decide)


async def update_agent(parts: Parts, auth: AuthContext, command: UpdateAgent) -> dict[str, Any]:
    """Give an agent a new version; `ConflictError` for a version it had before."""

    def decide(agent: Agent, at: Moment) -> list[Event]:
        return agent.update(command.definition, at)

    return await _decide(parts, auth, command, command.agent_id, decide)


async def deprecate_agent(
    parts: Parts, auth: AuthContext, command: DeprecateAgent
) -> dict[str, Any]:
    """Let an agent take no new runs; `InvalidStateTransitionError` when it is so already."""

    def decide(agent: Agent, at: Moment) -> list[Event]:
        return agent.deprecate(at)

    return await _decide(parts, auth, command, command.agent_id, decide)


async def _decide(
    parts: Parts,
    auth: AuthContext,
    command: Command,
    agent_id: str,
    decide: Callable[[Agent, Moment], list[Event]],
) -> dict[str, Any]:
    await parts.directory.active_tenant(auth.tenant_id)
    at = parts.moment_of(auth, command)
    ref = agent_ref(auth.tenant_id, agent_id)
    for _ in range(RACES):
        records = await parts.log.read(ref)
        for count, record in enumerate(records):
            if command.command_id is not None and record.command_id == command.command_id:
                return _answer(Agent(ref).fold(records[: count + 1]))
        agent = Agent(ref).fold(records)
        events = decide(agent, at)
        commit = make_commit(
            ref,
            events,
            parts.new_id,
            command_id=at.origin.command_id,
            correlation_id=at.origin.correlation_id,
            by_tenant=at.origin.tenant_id,
        )
        try:
            position = await parts.log.append(commit, expected=agent.position)
        except AppendConflictError:
            continue
        for event in events:
            agent.evolve(event)
        agent.position = position
        return _answer(agent)
    raise TimedOutError("the agent changes too fast; try again")


def _answer(agent: Agent) -> dict[str, Any]:
    return {"agent": agent.view(), "position": agent.position}
