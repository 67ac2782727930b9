"""The federation door: its health."""

from fastapi import FastAPI

from agentos.gateways.http.health import Vitals, add_health
from agentos.gateways.http.routing import Gate, guarded_app

SERVICE = "federation"
TITLE = "AgentOS federation"


def create_app(gate: Gate | None = None, vitals: Vitals | None = None) -> FastAPI:
    """Return the routes of the federation gateway; without parts only to be documented."""
    app = guarded_app(TITLE, gate)
    add_health(app, vitals, "/v1/federation/health")
    return app
