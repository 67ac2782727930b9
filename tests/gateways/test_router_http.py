"""The router in front of real HTTP servers: what a failing, dying or slow one does to a call."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from agentos.domain.errors import AgentOSError, ProviderError
from agentos.domain.log import make_commit
from agentos.domain.models.catalog_rules import parse_catalog
from agentos.domain.models.plan import Who
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate
from agentos.gateways.http.followed import Followed
from agentos.gateways.model_policy.attempts import Attempt
from agentos.gateways.model_policy.router import Router
from agentos.infra.memory.log import MemoryLog
from agentos.infra.models.build import make_backend
from tests.domain.given import Ids, moment
from tests.gateways.conftest import eventually
from tests.infra.models.openai_server import (
    OpenAIServer,
    Reply,
    abort,
    chunk,
    hang,
    openai_server,
    status,
    stream,
    text_stream,
)
from tests.infra.models.requests import caller, request

WELL = text_stream("from ", "b")


class Calls:
    """A router with the servers a and b behind it."""

    def __init__(self, router: Router, registry: CollectorRegistry) -> None:
        self.router, self.registry = router, registry
        self.shown: list[str] = []
        self.trail: list[Attempt] = []

    async def chat(self, *, streamed: bool = True, timeout_ms: int = 10_000) -> str:
        """Make a call to the route; return its text, with the attempts in `trail`."""
        self.shown, self.trail = [], []
        plan = await self.router.plan("quick", "chat", Who("tnt_a", "usr_1"), lambda *_: True)
        asked = request("quick", "hi", timeout_ms=timeout_ms)
        tell = self.shown.append if streamed else None
        routed = await self.router.chat(plan, caller(), asked, tell, trail=self.trail)
        return routed.answer.content

    def said(self) -> list[str]:
        return [f"{a.backend} {a.code or a.outcome}" for a in self.trail]

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def routed(a: str, b: str, *, run: bool = False, **more: Any) -> AsyncIterator[Calls]:
    """Route `quick` to the server a, then to the server b."""
    log, ids, registry = MemoryLog(), Ids(), CollectorRegistry()
    backends = [
        {"name": name, "kind": "openai", "base_url": url, "any_model": True}
        | more.get("backend", {})
        for name, url in (("a", a), ("b", b))
    ]
    chain = more.get("chain", [["a/m"], ["b/m"]])
    route = {
        "name": "quick",
        "chain": [{"targets": [{"model_id": m} for m in step]} for step in chain],
        "retries": {"attempts": 2, "base_backoff_ms": 1},
        "shadow": more.get("shadow", []),
    }
    catalog = CatalogAggregate(CATALOG_REF)
    document = parse_catalog({"backends": backends, "routes": [route]})
    commit = make_commit(CATALOG_REF, catalog.publish(document, "api", moment()), ids)
    await log.append(commit, expected=0)
    known = Followed(log, ("catalog",))
    router = Router(known, make_backend, registry)
    tasks = [asyncio.create_task(known.run())]
    if run:
        tasks.append(asyncio.create_task(router.run()))
    try:
        yield Calls(router, registry)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await router.aclose()


@asynccontextmanager
async def two_servers(
    a: Reply, b: Reply = WELL
) -> AsyncIterator[tuple[OpenAIServer, OpenAIServer]]:
    async with AsyncExitStack() as stack:
        yield (
            await stack.enter_async_context(openai_server(a)),
            await stack.enter_async_context(openai_server(b)),
        )


@pytest.mark.parametrize(
    ("reply", "times", "code"),
    [
        (status(503, "busy"), 2, "provider_error"),
        (status(429, "slow down", retry_after_ms="5"), 2, "provider_error"),
        (status(401, "who?"), 1, "provider_error"),
        (status(404, "no such model"), 1, "invalid_request"),
        (abort, 2, "dependency_unavailable"),
    ],
)
async def test_the_next_server_answers(reply: Reply, times: int, code: str) -> None:
    async with two_servers(reply) as (a, b), routed(a.base_url, b.base_url) as calls:
        assert await calls.chat() == "from b"
        assert len(a.bodies) == times
        assert [b.bodies[0]["model"], len(b.bodies)] == ["m", 1]
        assert calls.shown == ["from ", "b"]
        assert calls.said()[-1] == "b ok"
        assert len(calls.trail) == times + 1
        assert {attempt.outcome for attempt in calls.trail[:-1]} == {"error"}


async def test_a_server_that_is_not_there() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # taken, and nobody listens
        nowhere = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        async with openai_server(WELL) as b, routed(nowhere, b.base_url) as calls:
            assert await calls.chat() == "from b"
            assert calls.said() == ["a dependency_unavailable"] * 2 + ["b ok"]


async def test_a_request_that_is_refused_is_told() -> None:
    async with (
        two_servers(status(400, "the schema is none")) as (a, b),
        routed(a.base_url, b.base_url) as calls,
    ):
        with pytest.raises(AgentOSError) as caught:
            await calls.chat()
        assert not caught.value.to_wire()["retryable"]
        assert (len(a.bodies), len(b.bodies)) == (1, 0)


async def test_a_stream_that_dies_is_told_and_nothing_else_is_tried() -> None:
    dying = stream([chunk({"content": "beg"})], cut=True)
    async with two_servers(dying) as (a, b), routed(a.base_url, b.base_url) as calls:
        with pytest.raises(ProviderError):
            await calls.chat()
        assert calls.shown == ["beg"]
        assert (len(a.bodies), len(b.bodies)) == (1, 0)
        assert await calls.chat(streamed=False) == "from b"
        assert (len(a.bodies), len(b.bodies)) == (3, 1)


async def test_a_server_that_hangs_is_left_when_its_time_is_up() -> None:
    limits = {"timeouts": {"idle_ms": 100, "total_ms": 5000, "connect_ms": 1000}}
    async with (
        two_servers(hang) as (a, b),
        routed(a.base_url, b.base_url, backend=limits) as calls,
    ):
        assert await calls.chat(streamed=False) == "from b"
        assert calls.said()[-1] == "b ok"
        async with asyncio.timeout(5):
            await a.left.wait()


async def test_a_caller_that_leaves_closes_the_connection() -> None:
    async with two_servers(hang) as (a, b), routed(a.base_url, b.base_url) as calls:
        call = asyncio.create_task(calls.chat())
        async with asyncio.timeout(5):
            await a.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(5):
            await a.left.wait()
        assert calls.said() == ["a canceled"]
        assert b.bodies == []


async def test_a_breaker_closes_when_the_server_is_well_again() -> None:
    rule = {"breaker": {"failures": 2, "window_ms": 5000, "open_ms": 200}}
    async with (
        two_servers(status(500, "ill")) as (a, b),
        routed(a.base_url, b.base_url, backend=rule) as calls,
    ):
        await calls.chat()
        await calls.chat()
        assert (len(a.bodies), calls.said()) == (2, ["a breaker_open", "b ok"])
        a.replies[:] = [text_stream("well")]
        async with asyncio.timeout(5):
            while await calls.chat() != "well":  # noqa: ASYNC110 - its breaker is not to be seen
                await asyncio.sleep(0.02)
        assert len(a.bodies) == 3
        assert await calls.chat() == "well"


async def test_probes_and_shadows_over_http() -> None:
    shadow = [{"model_id": "b/m", "percent": 100}]
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        async with (
            openai_server(text_stream("shown")) as a,
            routed(a.base_url, nowhere, run=True, chain=[["a/m"]], shadow=shadow) as calls,
        ):
            assert await calls.chat() == "shown"
            await eventually(lambda: calls.count("agentos_backend_up", backend="a") == 1)
            await eventually(
                lambda: calls.registry.get_sample_value("agentos_backend_up", {"backend": "b"}) == 0
            )
            failed = {"backend": "b", "model": "other", "outcome": "dependency_unavailable"}
            name = "agentos_model_shadow_requests_total"
            await eventually(lambda: calls.count(name, **failed) == 1)
