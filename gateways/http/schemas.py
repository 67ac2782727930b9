"""The shapes that all doors share, for the OpenAPI documents."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """A part of an answer. `/v1` is additive: unknown fields may appear."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class ErrorObject(Shape):
    """What went wrong."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]


class ErrorBody(Shape):
    """Every answer that is not a success."""

    error: ErrorObject
    correlation_id: str


class Health(Shape):
    """A door that is able to serve."""

    status: Literal["ok"]
    service: str
    version: str
    correlation_id: str


class Liveness(Shape):
    """A process that answers."""

    status: Literal["ok"]
    correlation_id: str


class Readiness(Shape):
    """A door whose dependencies all answer."""

    status: Literal["ready"]
    checks: dict[str, str]
    correlation_id: str
