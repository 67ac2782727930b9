"""Which command goes to which handler: the whole table on one screen."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from agentos.domain.auth import AuthContext
from agentos.handlers import agents, audit, runs
from agentos.handlers.commands import (
    CancelRun,
    Command,
    CreateRun,
    DeprecateAgent,
    NoteDenials,
    RegisterAgent,
    UpdateAgent,
)
from agentos.handlers.parts import Parts

Handler = Callable[[Parts, AuthContext, Any], Awaitable[dict[str, Any]]]

ROUTES: Final[dict[str, tuple[type[Command], Handler]]] = {
    "run.create": (CreateRun, runs.create_run),
    "run.cancel": (CancelRun, runs.cancel_run),
    "agent.register": (RegisterAgent, agents.register_agent),
    "agent.update": (UpdateAgent, agents.update_agent),
    "agent.deprecate": (DeprecateAgent, agents.deprecate_agent),
    "audit.denials": (NoteDenials, audit.note_denials),
}


async def handle(parts: Parts, name: str, message: dict[str, Any]) -> dict[str, Any]:
    """Parse one command `{auth, command}` and let its handler decide; raises what it raises."""
    kind, handler = ROUTES[name]
    auth = AuthContext.model_validate(message["auth"])
    return await handler(parts, auth, kind.model_validate(message["command"]))
