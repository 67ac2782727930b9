"""Health, liveness, readiness and metrics: the same on every door."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request

from agentos.domain.errors import DependencyUnavailableError
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.call import call_of
from agentos.gateways.http.readiness import OK
from agentos.gateways.http.routing import Described, add, gate_of
from agentos.gateways.http.schemas import Health, Liveness, Readiness

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
METRICS_SCOPE: Final = "platform:admin"
Checks = Callable[[], Awaitable[dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a door knows of its own health. `before_metrics` takes figures that nobody pushes."""

    service: str
    version: str
    checks: Checks
    metrics_require_auth: bool = False
    before_metrics: Callable[[], Awaitable[None]] | None = None


def add_health(app: FastAPI, vitals: Vitals | None, path: str = "/v1/health") -> None:
    """Add the four routes; `vitals` may be `None` for an app that is only asked to document."""

    def known() -> Vitals:
        if vitals is None:
            raise RuntimeError("this app only documents")
        return vitals

    async def require_ready() -> dict[str, str]:
        checks = await known().checks()
        failing = [name for name, state in checks.items() if state != OK]
        if failing:
            raise DependencyUnavailableError(
                f"not ready: {', '.join(failing)}", dependency=failing[0], checks=checks
            )
        return checks

    async def health(request: Request) -> Answer:
        """Say whether this door can serve."""
        await require_ready()
        about = {"status": "ok", "service": known().service, "version": known().version}
        return json_answer(about, call_of(request.scope).correlation_id)

    async def healthz(request: Request) -> Answer:
        """Say that the process lives."""
        return json_answer({"status": "ok"}, call_of(request.scope).correlation_id)

    async def readyz(request: Request) -> Answer:
        """Say whether every dependency answers, true within a second or so."""
        checks = await require_ready()
        ready = {"status": "ready", "checks": checks}
        return json_answer(ready, call_of(request.scope).correlation_id)

    async def metrics(request: Request) -> Answer:
        """Return the figures of this process in the Prometheus text format."""
        gate = gate_of(request.scope)
        if known().metrics_require_auth:
            await gate.admit(request.scope, call_of(request.scope), METRICS_SCOPE)
        if (refresh := known().before_metrics) is not None:
            await refresh()
        return Answer(gate.metrics.text(), headers={"content-type": METRICS_TYPE})

    def describe(summary: str, answer: object, *errors: int) -> Described:
        return Described(summary, {200: answer}, errors=errors, tag="health")  # type: ignore[dict-item]

    add(app, "GET", path, health, describe("Health", Health, 503))
    add(app, "GET", "/healthz", healthz, describe("Liveness", Liveness))
    add(app, "GET", "/readyz", readyz, describe("Readiness", Readiness, 503))
    add(app, "GET", "/metrics", metrics, describe("Metrics", "text/plain", 401, 403))
