"""The routes that list models, and their shapes."""

from typing import Literal

from fastapi import FastAPI

from agentos.domain.models.catalog import Operation, Price, Tier
from agentos.gateways.http.routing import Described, add
from agentos.gateways.http.schemas import Shape
from agentos.gateways.model_policy import listing


class ModelCapability(Shape):
    """What one model, or one route to models, can do."""

    model_id: str
    provider: str
    capabilities: list[Operation]
    max_output_tokens: int | None = None
    context_window_tokens: int | None = None
    tier: Tier | None = None
    price: Price | None = None


class OpenAIModel(Shape):
    """A model as OpenAI's clients know it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class OpenAIModelAnswer(OpenAIModel):
    """One model as OpenAI's clients know it."""

    correlation_id: str


class ModelsAnswer(Shape):
    """What the tenant may use, in both forms."""

    models: list[ModelCapability]
    object: Literal["list"] = "list"
    data: list[OpenAIModel]
    correlation_id: str


def add_listing_routes(app: FastAPI) -> None:
    """Add the routes of this file."""
    read = (400, 401, 403, 503)
    about = Described("List models", {200: ModelsAnswer}, errors=read, tag="models")
    add(app, "GET", "/v1/models", listing.list_models, about)
    about = Described(
        "Get a model",
        {200: OpenAIModelAnswer},
        (listing.MODEL_ID,),
        errors=(*read, 404),
        tag="models",
    )
    add(app, "GET", "/v1/models/{model_id:path}", listing.get_model, about)
