"""The model and policy door: policy checks, and its health."""

from fastapi import FastAPI

from agentos.gateways.http.health import Vitals, add_health
from agentos.gateways.http.routing import Gate, guarded_app
from agentos.gateways.model_policy.canonical import add_canonical
from agentos.gateways.model_policy.checking import add_checks
from agentos.gateways.model_policy.listing_routes import add_listing_routes
from agentos.gateways.model_policy.openai.routes import add_openai_routes
from agentos.gateways.model_policy.parts import Parts

SERVICE = "model-policy"
TITLE = "AgentOS model and policy"


def create_app(
    gate: Gate | None = None, vitals: Vitals | None = None, parts: Parts | None = None
) -> FastAPI:
    """Return the routes of the model and policy gateway; without parts only to be documented."""
    app = guarded_app(TITLE, gate, parts)
    add_openai_routes(app)
    add_canonical(app)
    add_checks(app)
    add_listing_routes(app)
    add_health(app, vitals)
    return app
