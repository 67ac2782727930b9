"""The agents' commands, and a command that comes twice."""

import pytest

from agentos.domain.agent.agent import Definition, agent_ref
from agentos.domain.errors import (
    AgentOSError,
    ConflictError,
    InvalidStateTransitionError,
    NotFoundError,
    TenantUnknownError,
)
from agentos.handlers.agents import deprecate_agent, register_agent, update_agent
from agentos.handlers.commands import DeprecateAgent, RegisterAgent, UpdateAgent
from tests.domain.given import TRACE
from tests.handlers.node import a_node, caller
from tests.handlers.virtual import virtual_time


def register(version: str = "1", command_id: str | None = None) -> RegisterAgent:
    definition = Definition(name="B", model_ref="m", version=version)
    return RegisterAgent(
        traceparent=TRACE, agent_id="agt_b", definition=definition, command_id=command_id
    )


def update(version: str, command_id: str | None = None) -> UpdateAgent:
    return UpdateAgent(**register(version, command_id).model_dump())


def deprecate(command_id: str | None = None) -> DeprecateAgent:
    return DeprecateAgent(traceparent=TRACE, agent_id="agt_b", command_id=command_id)


@virtual_time
async def test_the_life_of_an_agent() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        auth = caller()
        with pytest.raises(NotFoundError):
            await update_agent(parts, auth, update("2"))
        with pytest.raises(NotFoundError):
            await deprecate_agent(parts, auth, deprecate())
        first = await register_agent(parts, auth, register())
        assert first["agent"]["version"] == "1"
        last = await node.log.last(agent_ref("tnt_a", "agt_b"))
        assert last is not None
        assert first["position"] == last.position
        with pytest.raises(ConflictError):
            await register_agent(parts, auth, register())
        assert (await update_agent(parts, auth, update("2")))["agent"]["version"] == "2"
        with pytest.raises(ConflictError):
            await update_agent(parts, auth, update("1"))
        gone = await deprecate_agent(parts, auth, deprecate())
        assert gone["agent"]["status"] == "deprecated"
        with pytest.raises(InvalidStateTransitionError):
            await deprecate_agent(parts, auth, deprecate())


@virtual_time
async def test_a_repeated_command_is_answered_as_the_first_time() -> None:
    async with a_node() as node:
        await node.tenant()
        parts, other = await node.handlers(), await node.handlers()
        auth = caller()
        first = await register_agent(parts, auth, register(command_id="cmd_1"))
        second = await update_agent(parts, auth, update("2", "cmd_2"))
        third = await deprecate_agent(parts, auth, deprecate("cmd_3"))
        for process in (parts, other):
            assert await register_agent(process, auth, register(command_id="cmd_1")) == first
            assert await update_agent(process, auth, update("2", "cmd_2")) == second
            assert await deprecate_agent(process, auth, deprecate("cmd_3")) == third
        assert len(await node.log.read(agent_ref("tnt_a", "agt_b"))) == 3


@virtual_time
async def test_an_agent_is_its_tenants_alone() -> None:
    async with a_node() as node:
        await node.tenant()
        await node.tenant("tnt_b")
        parts = await node.handlers()
        await register_agent(parts, caller(), register())
        other: type[AgentOSError] = NotFoundError
        with pytest.raises(other):
            await deprecate_agent(parts, caller("tnt_b"), deprecate())
        with pytest.raises(TenantUnknownError):
            await register_agent(parts, caller("tnt_c"), register())
