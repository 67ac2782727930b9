"""Health and readiness say the truth, soon."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.subjects import heartbeat
from agentos.gateways.http import readiness
from agentos.gateways.http.readiness import Heartbeats, NodeReadiness
from agentos.infra.memory.signals import MemorySignals
from tests.gateways.conftest import Door, bearer, eventually

ALL = ("orchestrator", "model_policy", "federation")


@pytest.fixture
async def ready(door: Door) -> AsyncIterator[Door]:
    """A door whose node lives: handlers and an executor are heard."""

    async def beat() -> None:
        while True:
            for service in ("handlers", "executor"):
                await door.signals.publish(heartbeat(service, "wrk_1"), b"{}")
            await asyncio.sleep(0.05)

    beating = asyncio.create_task(beat())
    await eventually(lambda: len(door.gateway.heartbeats._heard) >= 2)
    yield door
    beating.cancel()


async def test_all_doors_are_ready(ready: Door) -> None:
    services = []
    for url, path in zip(
        ready.urls, ("/v1/health", "/v1/health", "/v1/federation/health"), strict=True
    ):
        for probe in ("/healthz", "/readyz"):
            assert (await ready.call("GET", url + probe, headers={}))[0] == 200
        status, body, _ = await ready.call("GET", url + path, headers={})
        assert (status, body["status"]) == (200, "ok")
        assert body["version"]
        services.append(body["service"])
    assert services == ["agent-orchestrator", "model-policy", "federation"]


async def test_what_fails_is_named_and_the_process_lives(ready: Door) -> None:
    ready.reads.down = DependencyUnavailableError("PostgreSQL is gone", dependency="postgres")
    for path in ("/readyz", "/v1/health"):
        status, body, _ = await ready.call("GET", path, headers={})
        assert (status, body["error"]["code"]) == (503, "dependency_unavailable")
        assert body["error"]["details"]["checks"] == {
            "nats": "ok",
            "postgres": "PostgreSQL is gone",
            "handlers": "ok",
            "executor": "ok",
        }
        assert body["correlation_id"].startswith("corr_")
    assert (await ready.call("GET", "/healthz", headers={}))[0] == 200
    ready.reads.down = None
    await asyncio.sleep(readiness.FRESH_S)
    assert (await ready.call("GET", "/readyz", headers={}))[0] == 200


async def test_silence_is_noticed_within_about_a_second() -> None:
    signals = MemorySignals()
    heartbeats = Heartbeats(signals)
    listening = asyncio.create_task(heartbeats.run())
    checks = NodeReadiness({}, heartbeats, ("executor",))
    assert await checks.checks() == {"executor": "not heard yet"}
    await eventually(lambda: signals._subscribers)
    await signals.publish(heartbeat("executor", "wrk_1"), b"{}")
    await eventually(lambda: heartbeats._heard)
    assert await checks.checks() == {"executor": "ok"}
    heartbeats._heard["executor"] -= readiness.HEARD_S
    assert (await checks.checks())["executor"].startswith("silent for 1.")
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert not signals._subscribers


async def test_a_probe_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "CHECK_S", 0.01)
    asked = []

    async def hang() -> None:
        asked.append(1)
        await asyncio.Event().wait()

    checks = NodeReadiness({"nats": hang}, Heartbeats(MemorySignals()), ())
    both = await asyncio.gather(checks.checks(), checks.checks())
    assert both[0] == both[1] == {"nats": "no answer in time"}
    assert len(asked) == 1, "questions that come together share one answer"


async def test_metrics_ask_for_a_platform_admin_where_they_must() -> None:
    door = Door(metrics_require_auth=True)
    await door.start()
    assert (await door.call("GET", "/metrics", headers={}))[0] == 401
    assert (await door.call("GET", "/metrics"))[0] == 403
    admin = bearer(roles=["platform_admin"])
    async with door.client.get("/metrics", headers=admin) as response:
        assert response.status == 200
    await door.close()
