"""The orchestrator's door: its routes behind the shared layers."""

from fastapi import FastAPI

from agentos.gateways.http.health import Vitals, add_health
from agentos.gateways.http.routing import Gate, guarded_app
from agentos.gateways.orchestrator.parts import Parts
from agentos.gateways.orchestrator.routes import add_routes

SERVICE = "agent-orchestrator"
TITLE = "AgentOS orchestrator"


def create_app(
    gate: Gate | None = None, vitals: Vitals | None = None, parts: Parts | None = None
) -> FastAPI:
    """Return the routes of the orchestrator; without parts only to be documented."""
    app = guarded_app(TITLE, gate, parts)
    add_routes(app)
    add_health(app, vitals)
    return app
