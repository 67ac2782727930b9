"""The router: retries, fallback, breakers, limits, shadows, probes, a catalog that changes."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from agentos.domain.auth import AuthContext
from agentos.domain.errors import (
    AgentOSError,
    DependencyUnavailableError,
    ForbiddenError,
    InvalidRequestError,
    PolicyBlockedError,
    ProviderError,
    TimedOutError,
)
from agentos.domain.log import make_commit
from agentos.domain.models.catalog import BackendEntry
from agentos.domain.models.catalog_rules import parse_catalog
from agentos.domain.models.plan import Plan, Target, Who
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate
from agentos.domain.models.routing import Needs
from agentos.domain.ports import (
    EmbedAnswer,
    EmbedRequest,
    ModelAnswer,
    ModelRequest,
    OnDelta,
    Requirements,
    Usage,
)
from agentos.gateways.http.followed import Followed
from agentos.gateways.model_policy.attempts import Attempt
from agentos.gateways.model_policy.router import Router, monotonic_ms
from agentos.infra.memory.log import MemoryLog
from tests.domain.given import Ids, moment
from tests.infra.models.requests import caller, request

AUTH = caller()
WHO = Who("tnt_a", "usr_1")
Act = Callable[[ModelRequest | EmbedRequest, OnDelta | None], Awaitable[str]]


class FakeBackend:
    """A backend whose calls do what its acts say, in order; the last again and again."""

    def __init__(self, name: str, acts: Iterable[Act | AgentOSError | str]) -> None:
        self.name = name
        self.acts = list(acts)
        self.asked: list[tuple[str, ModelRequest | EmbedRequest]] = []
        self.probes = 0
        self.is_down = False
        self.closed = asyncio.Event()

    async def _act(
        self, model: str, asked: ModelRequest | EmbedRequest, on_delta: OnDelta | None
    ) -> str:
        self.asked.append((model, asked))
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        if isinstance(act, AgentOSError):
            raise act
        if isinstance(act, str):
            if on_delta is not None:
                on_delta(act)
            return act
        return await act(asked, on_delta)

    async def chat(
        self, auth: AuthContext, model: str, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        text = await self._act(model, request, on_delta)
        return ModelAnswer(text, (), Usage(3, 2), "as the adapter says", model)

    async def embed(self, auth: AuthContext, model: str, request: EmbedRequest) -> EmbedAnswer:
        await self._act(model, request, None)
        return EmbedAnswer([[1.0]], Usage(1, 0), "as the adapter says", model)

    async def probe(self) -> None:
        self.probes += 1
        if self.is_down:
            raise DependencyUnavailableError("down", dependency=self.name)

    async def aclose(self) -> None:
        self.closed.set()


class World:
    """A router over a log in memory, whose backends are fakes."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.known = Followed(self.log, ("catalog",))
        self.registry = CollectorRegistry()
        self.backends: dict[str, FakeBackend] = {}
        self.acts: dict[str, list[Act | AgentOSError | str]] = {}
        self.made: list[FakeBackend] = []
        self.unmakeable: set[str] = set()
        self.clock = monotonic_ms
        self.later = 0
        self.router = Router(
            self.known, self.make, self.registry, now_ms=self.now, chance=random.Random(1)
        )
        self._ids = Ids()

    def now(self) -> int:
        return self.clock() + self.later

    def make(self, entry: BackendEntry) -> FakeBackend:
        if entry.name in self.unmakeable:
            raise DependencyUnavailableError("its key cannot be read", dependency=entry.name)
        made = FakeBackend(entry.name, self.acts.get(entry.name, [f"from {entry.name}"]))
        self.backends[entry.name] = made
        self.made.append(made)
        return made

    async def publish(self, *steps: list[Any], **more: Any) -> None:
        """Publish a catalog whose route `quick` has these steps."""
        chain = [{"targets": [_entry(target) for target in step]} for step in steps]
        backend = more.pop("backend", {})
        route = {"name": "quick", "chain": chain, "retries": more.pop("retries", RETRIES)} | more
        raw = {
            "backends": [
                {"name": name, "kind": "openai", "base_url": "http://m.example"}
                | backend.get(name, {})
                for name in ("a", "b")
            ],
            "models": [
                {"model_id": f"{name}/m", "capabilities": ["chat", "embed"]} for name in "ab"
            ],
            "routes": [route, route | {"operation": "embed"}] if chain else [],
        }
        catalog = CatalogAggregate(CATALOG_REF).fold(await self.log.read(CATALOG_REF))
        events = catalog.publish(parse_catalog(raw), "api", moment(new_id=self._ids))
        commit = make_commit(CATALOG_REF, events, self._ids)
        await self.log.append(commit, expected=catalog.position)
        await self.known.reload(CatalogAggregate, CATALOG_REF)

    async def plan(self, ref: str = "quick", **more: Any) -> Plan:
        return await self.router.plan(ref, "chat", WHO, more.pop("is_allowed", _all), **more)

    async def chat(self, ref: str = "quick", text: str = "hi", **more: Any) -> list[str]:
        """Make a call; return the answer and the outcomes of its attempts."""
        plan = await self.plan(ref)
        routed = await self.router.chat(plan, AUTH, request(ref, text, **more))
        assert routed.answer.backend == routed.target.backend
        assert routed.answer.fallback_used == routed.fallback_used
        return [routed.answer.content, *map(said, routed.attempts)]

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


RETRIES = {"attempts": 2, "base_backoff_ms": 1}


def _entry(target: Any) -> dict[str, Any]:
    return {"model_id": target} if isinstance(target, str) else target


def _all(asked: str, target: Target) -> bool:
    return True


def said(attempt: Attempt) -> str:
    how = attempt.code if attempt.outcome == "error" else attempt.outcome
    return f"{attempt.backend} {how}"


def broken(**details: Any) -> ProviderError:
    return ProviderError("it broke", **details)


def embedding(ref: str = "quick") -> EmbedRequest:
    return EmbedRequest(request_id="req_1", model_ref=ref, texts=["a"])


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    following = asyncio.create_task(made.known.run())
    try:
        yield made
    finally:
        await made.router.aclose()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


@asynccontextmanager
async def probing(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.router.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - counters have no event to wait for
            await asyncio.sleep(0.005)


# retries and fallback


async def test_the_first_target_answers(world: World) -> None:
    await world.publish(["a/m"], ["b/m"])
    assert await world.chat() == ["from a", "a ok"]
    assert "b" not in world.backends
    assert world.count("agentos_model_requests_total", backend="a", model="m", outcome="ok") == 1


async def test_a_failure_that_passes_is_tried_again(world: World) -> None:
    world.acts["a"] = [broken(status=503), "well"]
    await world.publish(["a/m"], ["b/m"])
    assert await world.chat() == ["well", "a provider_error", "a ok"]


async def test_then_the_next_target_answers(world: World) -> None:
    world.acts["a"] = [broken(status=500)]
    await world.publish(["a/m"], ["b/m"])
    assert await world.chat() == ["from b", "a provider_error", "a provider_error", "b ok"]
    routed = await world.router.embed(await world.plan(), AUTH, embedding())
    assert routed.fallback_used
    assert routed.answer.backend == "b"


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (ProviderError("bad key", status=401, retryable=False), 1),
        (InvalidRequestError("no such model", status=404), 1),
        (TimedOutError("slow"), 1),
        (DependencyUnavailableError("away", dependency="a"), 2),
        (PolicyBlockedError("not to this backend"), 1),
    ],
)
async def test_what_another_target_may_mend(
    world: World, error: AgentOSError, attempts: int
) -> None:
    world.acts["a"] = [error]
    await world.publish(["a/m"], ["b/m"])
    said = await world.chat()
    assert said == ["from b", *[f"a {error.code}"] * attempts, "b ok"]


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("the tool's schema is none", status=400),
        ProviderError("too large", status=413, retryable=False),
        ForbiddenError("no"),
    ],
)
async def test_what_nothing_can_mend_is_told_and_held_against_nobody(
    world: World, error: AgentOSError
) -> None:
    world.acts["a"] = [error]
    await world.publish(["a/m"], ["b/m"], backend={"a": {"breaker": {"failures": 1}}})
    trail: list[Attempt] = []
    for _ in range(3):
        with pytest.raises(type(error)):
            await world.router.chat(await world.plan(), AUTH, request("quick", "hi"), trail=trail)
    assert [said(one) for one in trail] == [f"a {error.code}"] * 3


async def test_all_fail_and_the_last_error_is_told(world: World) -> None:
    world.acts |= {"a": [broken(status=500)], "b": [DependencyUnavailableError("b is away")]}
    await world.publish(["a/m"], ["b/m"])
    trail: list[Attempt] = []
    with pytest.raises(DependencyUnavailableError, match="b is away"):
        await world.router.chat(await world.plan(), AUTH, request("quick", "hi"), trail=trail)
    assert [said(one) for one in trail] == [
        "a provider_error",
        "a provider_error",
        "b dependency_unavailable",
        "b dependency_unavailable",
    ]


async def test_a_server_that_says_when_is_not_asked_earlier(world: World) -> None:
    world.acts["a"] = [broken(status=429, retry_after_ms=150), "well"]
    await world.publish(["a/m"])
    began = monotonic_ms()
    assert await world.chat() == ["well", "a provider_error", "a ok"]
    assert monotonic_ms() - began >= 149


async def test_a_server_that_says_much_later_is_left(world: World) -> None:
    world.acts["a"] = [broken(status=429, retry_after_ms=60_000)]
    await world.publish(["a/m"], ["b/m"])
    assert await world.chat() == ["from b", "a provider_error", "b ok"]
    await world.publish(["a/m"])
    with pytest.raises(ProviderError):
        await world.chat(timeout_ms=500)


async def test_nothing_is_tried_again_once_a_delta_was_shown(world: World) -> None:
    async def break_off(asked: Any, on_delta: OnDelta | None) -> str:
        if on_delta is not None:
            on_delta("beg")
        raise broken(stage="stream", usage={"input_tokens": 5, "output_tokens": 1})

    world.acts["a"] = [break_off]
    await world.publish(["a/m"], ["b/m"])
    shown: list[str] = []
    trail: list[Attempt] = []
    plan = await world.plan()
    with pytest.raises(ProviderError):
        await world.router.chat(plan, AUTH, request("quick", "hi"), shown.append, trail=trail)
    assert shown == ["beg"]
    assert [(said(one), one.usage) for one in trail] == [("a provider_error", Usage(5, 1))]
    assert await world.chat() == ["from b", "a provider_error", "a provider_error", "b ok"]


async def test_a_backend_that_cannot_be_made_is_passed_over(world: World) -> None:
    world.unmakeable.add("a")
    await world.publish(["a/m"], ["b/m"])
    assert (await world.chat())[0] == "from b"


async def test_builtin_models_are_asked_once(world: World) -> None:
    world.acts["builtin"] = [broken()]
    await world.publish()
    with pytest.raises(ProviderError):
        await world.chat("builtin/echo")
    assert len(world.backends["builtin"].asked) == 1


async def test_each_target_gets_the_request_made_for_it(world: World) -> None:
    world.acts["a"] = [broken(status=401)]
    await world.publish(["a/m"], ["b/m"])

    def prepared(target: Target) -> ModelRequest:
        return request("quick", f"for {target.backend}")

    await world.router.chat(await world.plan(), AUTH, request("quick", "hi"), prepare=prepared)
    texts = {n: b.asked[0][1].messages[1].content for n, b in world.backends.items()}  # type: ignore[union-attr]  # all are chats
    assert texts == {"a": "for a", "b": "for b"}


# time


async def test_a_slow_target_leaves_time_for_the_next(world: World) -> None:
    async def until_its_limit(asked: Any, on_delta: OnDelta | None) -> str:
        limits.append(asked.timeout_ms)
        raise TimedOutError("its limit is up")

    limits: list[int] = []
    world.acts["a"] = [until_its_limit]
    await world.publish([{"model_id": "a/m", "max_latency_ms": 50}], ["b/m"])
    assert await world.chat() == ["from b", "a timeout", "b ok"]
    assert limits == [50]


async def test_the_latency_asked_for_is_the_whole_calls_time(world: World) -> None:
    await world.publish(["a/m"])
    asked = request("quick", "hi")
    needs = Requirements(max_latency_ms=70)
    plan = await world.plan(needs=Needs(needs))
    await world.router.chat(plan, AUTH, replace(asked, requirements=needs))
    ((_, got),) = world.backends["a"].asked
    assert 1 <= got.timeout_ms <= 70


async def test_one_callers_haste_opens_no_breaker(world: World) -> None:
    world.acts["a"] = [TimedOutError("too slow for this caller")]
    await world.publish(["a/m"], backend={"a": {"breaker": {"failures": 1}}})
    for _ in range(3):
        with pytest.raises(TimedOutError):
            await world.chat(timeout_ms=100)
    assert len(world.backends["a"].asked) == 3


async def test_what_calls_take_is_remembered_for_a_while(world: World) -> None:
    async def slow(asked: Any, on_delta: OnDelta | None) -> str:
        world.later += 500
        return "slow"

    world.acts["a"] = [slow]
    await world.publish(["a/m"], ["b/m"])
    await world.chat()
    assert world.router.latency_of("a/m") in range(500, 600)
    fast = Needs(Requirements(max_latency_ms=100))
    assert [t.backend for t in (await world.plan(needs=fast)).targets] == ["b"]
    world.later += 61_000
    assert [t.backend for t in (await world.plan(needs=fast)).targets] == ["a", "b"]


# breakers, health, limits


async def test_a_breaker_leaves_a_sick_backend_alone_and_tries_it_again(world: World) -> None:
    world.acts["a"] = [broken(status=500), broken(status=500), "well again"]
    rule = {"breaker": {"failures": 2, "open_ms": 1000}}
    await world.publish(["a/m"], ["b/m"], backend={"a": rule})
    assert (await world.chat())[0] == "from b"
    assert await world.chat() == ["from b", "a breaker_open", "b ok"]
    world.later += 1000
    assert await world.chat() == ["well again", "a ok"]
    assert await world.chat() == ["well again", "a ok"]


async def test_with_every_breaker_open_the_call_fails_at_once(world: World) -> None:
    world.acts["a"] = [broken(status=500)]
    await world.publish(["a/m"], backend={"a": {"breaker": {"failures": 1}}})
    with pytest.raises(ProviderError):
        await world.chat()
    with pytest.raises(DependencyUnavailableError):
        await world.chat()
    assert len(world.backends["a"].asked) == 1


async def test_probes_say_who_is_up(world: World) -> None:
    await world.publish(["a/m"], backend={"a": {"probe_ms": 1000}})
    async with probing(world):
        await until(lambda: world.count("agentos_backend_up", backend="b") == 1)
        world.backends["a"].is_down = True
        world.later += 1000
        await until(lambda: world.count("agentos_backend_up", backend="a") == 0)
        assert world.count("agentos_backend_up", backend="b") == 1


async def test_no_call_is_spent_while_the_probe_fails(world: World) -> None:
    world.acts["a"] = [broken(status=500), "well"]
    rule = {"breaker": {"failures": 1, "open_ms": 1000}}
    await world.publish(["a/m"], ["b/m"], backend={"a": rule})
    await world.chat()
    sick = world.backends["a"]
    sick.is_down = True
    async with probing(world):
        await until(lambda: sick.probes >= 1)
        for _ in range(4):
            seen = sick.probes
            world.later += 600
            await until(lambda: sick.probes > seen)  # noqa: B023 - awaited before it changes
            assert (await world.chat())[1] == "a breaker_open"
        sick.is_down = False
        world.later += 1000
        assert await world.chat() == ["well", "a ok"]


async def test_a_full_backend_is_passed_over_and_the_last_waits(world: World) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()

    async def hold(asked: Any, on_delta: OnDelta | None) -> str:
        entered.set()
        await gate.wait()
        return "held"

    world.acts["a"] = [hold]
    await world.publish(["a/m"], ["b/m"], backend={"a": {"max_concurrency": 1}})
    first = asyncio.create_task(world.chat())
    await entered.wait()
    assert await world.chat() == ["from b", "a busy", "b ok"]
    with pytest.raises(DependencyUnavailableError, match="hands full"):
        await world.chat("a/m", timeout_ms=50)
    waiting = asyncio.create_task(world.chat("a/m"))
    gate.set()
    assert await first == ["held", "a ok"]
    assert await waiting == ["held", "a ok"]


async def test_a_call_that_is_cancelled_leaves_nothing_behind(world: World) -> None:
    entered = asyncio.Event()

    async def hang(asked: Any, on_delta: OnDelta | None) -> str:
        entered.set()
        await asyncio.sleep(3600)
        return ""

    world.acts["a"] = [hang, "next"]
    await world.publish(["a/m"], backend={"a": {"max_concurrency": 1}})
    trail: list[Attempt] = []
    plan = await world.plan()
    call = asyncio.create_task(world.router.chat(plan, AUTH, request("quick", "hi"), trail=trail))
    await entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [said(one) for one in trail] == ["a canceled"]
    assert await world.chat() == ["next", "a ok"]


# shadows


async def test_a_shadow_gets_a_copy_and_has_no_effect(world: World) -> None:
    world.acts["b"] = ["shown to nobody"]
    await world.publish(["a/m"], shadow=[{"model_id": "b/m", "percent": 100}])
    assert await world.chat(text="a question") == ["from a", "a ok"]
    labels = {"backend": "b", "model": "m"}
    count = "agentos_model_shadow_requests_total"
    await until(lambda: world.count(count, outcome="ok", **labels) == 1)
    ((_, copy),) = world.backends["b"].asked
    assert isinstance(copy, ModelRequest)
    assert copy.messages[-1].content == "a question"
    assert copy.request_id.endswith("-shadow")
    tokens = "agentos_model_shadow_tokens_total"
    assert world.count(tokens, direction="output", **labels) == 2
    assert world.count("agentos_model_requests_total", outcome="ok", **labels) == 0


async def test_a_shadow_sees_what_was_sent_not_what_was_asked(world: World) -> None:
    await world.publish(["a/m"], shadow=[{"model_id": "b/m", "percent": 100}])
    await world.router.chat(
        await world.plan(),
        AUTH,
        request("quick", "secret"),
        prepare=lambda _: request("quick", "redacted"),
    )
    await until(lambda: "b" in world.backends and len(world.backends["b"].asked) == 1)
    ((_, copy),) = world.backends["b"].asked
    assert isinstance(copy, ModelRequest)
    assert copy.messages[1].content == "redacted"


async def test_a_shadow_that_fails_or_hangs_hinders_nobody(world: World) -> None:
    async def hang(asked: Any, on_delta: OnDelta | None) -> str:
        await asyncio.sleep(3600)
        return ""

    async def mistake(asked: Any, on_delta: OnDelta | None) -> str:
        raise RuntimeError("a mistake of ours")

    world.acts["b"] = [broken(), mistake, hang]
    await world.publish(["a/m"], shadow=[{"model_id": "b/m", "percent": 100}])
    for _ in range(40):
        assert await world.chat() == ["from a", "a ok"]
    labels = {"backend": "b", "model": "m"}
    count = "agentos_model_shadow_requests_total"
    await until(lambda: world.count(count, outcome="provider_error", **labels) == 1)
    await until(lambda: world.count(count, outcome="RuntimeError", **labels) == 1)
    assert world.count(count, outcome="dropped", **labels) >= 6


async def test_a_share_of_calls_is_copied(world: World) -> None:
    await world.publish(["a/m"], shadow=[{"model_id": "b/m", "percent": 25}])
    for number in range(400):
        await world.chat(request_id=f"r{number}")
        await asyncio.sleep(0)
    await until(lambda: len(world.backends["b"].asked) > 70)
    assert len(world.backends["b"].asked) < 130


# the catalog


async def test_a_name_published_a_moment_ago_is_found(world: World) -> None:
    await world.publish()
    with pytest.raises(InvalidRequestError):
        await world.plan()
    before = (await world.plan("builtin/echo")).catalog_version
    await world.publish(["a/m"])
    assert (await world.plan()).catalog_version == before + 1


async def test_nothing_published_is_what_is_out_of_the_box(world: World) -> None:
    assert await world.chat("tier:fast") == ["from builtin", "builtin ok"]


async def test_a_changed_backend_is_made_anew_and_the_old_one_closed_when_idle(
    world: World,
) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()

    async def hold(asked: Any, on_delta: OnDelta | None) -> str:
        entered.set()
        await gate.wait()
        return "held"

    world.acts["a"] = [hold]
    await world.publish(["a/m"])
    first = asyncio.create_task(world.chat())
    await entered.wait()
    old = world.backends["a"]
    world.acts["a"] = ["new"]
    await world.publish(["a/m"], backend={"a": {"base_url": "http://other.example"}})
    assert await world.chat() == ["new", "a ok"]
    assert not old.closed.is_set()
    gate.set()
    assert await first == ["held", "a ok"]
    async with asyncio.timeout(5):
        await old.closed.wait()
    assert [made.name for made in world.made] == ["a", "a"]


async def test_a_plan_of_an_older_catalog_serves_its_one_call(world: World) -> None:
    await world.publish(["a/m"])
    plan = await world.plan()
    await world.publish(["b/m"], backend={"a": {"base_url": "http://other.example"}})
    assert await world.chat() == ["from b", "b ok"]
    routed = await world.router.chat(plan, AUTH, request("quick", "hi"))
    assert routed.answer.content == "from a"
    old = world.backends["a"]
    async with asyncio.timeout(5):
        await old.closed.wait()


async def test_models_without_a_name_in_the_catalog_are_counted_as_other(world: World) -> None:
    await world.publish(["a/m"], backend={"a": {"any_model": True}})
    for number in range(20):
        await world.chat(f"a/new-{number}")
    labels = {"backend": "a", "outcome": "ok"}
    assert world.count("agentos_model_requests_total", model="other", **labels) == 20
    samples = [m for m in world.registry.collect() if m.name == "agentos_model_requests"]
    assert len({s.labels["model"] for m in samples for s in m.samples}) == 1
