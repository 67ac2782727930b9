"""A request id answers once, in any number of processes, and outlives the process that began."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from agentos.domain.auth import USER_SCOPES, AuthContext, Principal
from agentos.domain.errors import ConflictError, ProviderError, TimedOutError
from agentos.gateways.model_policy import idempotency
from agentos.gateways.model_policy.calls import Caller
from agentos.gateways.model_policy.idempotency import AnswerStore, Idempotency
from agentos.infra.clock import SystemIds
from agentos.infra.jetstream.answers import JetStreamAnswers
from agentos.infra.memory.answers import MemoryAnswers
from tests.contracts.logs import connected
from tests.infra.embedded import EmbeddedNats

TTL_S = 3600


@pytest.fixture(params=["memory", "jetstream"])
async def store(
    request: pytest.FixtureRequest, nats_server: EmbeddedNats
) -> AsyncIterator[Callable[[], Awaitable[AnswerStore]]]:
    """Make stores as processes of their own have them, on one set of answers."""
    memory = MemoryAnswers()
    async with AsyncExitStack() as open_:

        async def make() -> AnswerStore:
            if request.param == "memory":
                return memory
            return JetStreamAnswers(await open_.enter_async_context(connected(nats_server.url)))

        yield make


def caller(
    fingerprint: str = "f", principal: str = "usr_a", tenant: str = "tnt_a", **more: Any
) -> Caller:
    auth = AuthContext(
        tenant_id=tenant, principal=Principal(principal_id=principal), scopes=USER_SCOPES
    )
    return Caller(auth, "corr_1", "", fingerprint=fingerprint, **more)


class Model:
    """Counts how often it was asked; answers when it may."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.began = asyncio.Event()

    async def __call__(self) -> dict[str, Any]:
        self.calls += 1
        self.began.set()
        await self.may_answer.wait()
        return {"text": f"answer {self.calls}", "usage": {"input_tokens": 1}}


Make = Callable[[], Awaitable[AnswerStore]]
new_id = SystemIds()


async def an_idempotency(store: Make, wait_s: float = 30.0) -> Idempotency:
    return Idempotency(await store(), new_id, TTL_S, wait_s)


async def test_a_repeat_gets_the_first_answer(store: Make) -> None:
    first, second = await an_idempotency(store), await an_idempotency(store)
    request_id, model = new_id("req"), Model()
    assert await first.once(caller(), request_id, model) == (
        {"text": "answer 1", "usage": {"input_tokens": 1}},
        False,
    )
    answer, is_repeat = await second.once(caller(), request_id, model)
    assert (answer["text"], is_repeat, model.calls) == ("answer 1", True, 1)


class Lossy:
    """A store whose renewals are written, and never answered."""

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self.lost = asyncio.Event()
        self.writes = 0

    async def read(self, tenant_id: str, digest: str) -> tuple[int, bytes] | None:
        return await self._store.read(tenant_id, digest)

    async def write(
        self, tenant_id: str, digest: str, body: bytes, *, expected: int, ttl_s: int
    ) -> int | None:
        found = await self._store.write(tenant_id, digest, body, expected=expected, ttl_s=ttl_s)
        self.writes += 1
        if self.writes == 2:
            self.lost.set()
            await asyncio.Event().wait()
        return found


async def test_a_renewal_that_is_broken_off_loses_no_answer(
    store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "RENEW_S", 0.01)
    lossy = Lossy(await store())
    once, request_id, model = Idempotency(lossy, new_id, TTL_S, 30.0), new_id("req"), Model()
    model.may_answer.clear()
    first = asyncio.create_task(once.once(caller(), request_id, model))
    async with asyncio.timeout(10):
        await lossy.lost.wait()
    model.may_answer.set()
    assert (await first)[1] is False
    answer, is_repeat = await (await an_idempotency(store)).once(caller(), request_id, model)
    assert (answer["text"], is_repeat, model.calls) == ("answer 1", True, 1)


async def test_another_body_is_a_conflict(store: Make) -> None:
    once, request_id, model = await an_idempotency(store), new_id("req"), Model()
    await once.once(caller("f"), request_id, model)
    with pytest.raises(ConflictError):
        await once.once(caller("g"), request_id, model)
    assert model.calls == 1


async def test_ids_belong_to_tenant_and_principal(store: Make) -> None:
    once, request_id, model = await an_idempotency(store), new_id("req"), Model()
    for who in (caller(), caller(principal="usr_b"), caller(tenant="tnt_b")):
        assert (await once.once(who, request_id, model))[1] is False
    assert model.calls == 3


async def test_whoever_comes_at_once_waits(store: Make) -> None:
    one, two = await an_idempotency(store), await an_idempotency(store)
    request_id, model = new_id("req"), Model()
    model.may_answer.clear()
    first = asyncio.create_task(one.once(caller(), request_id, model))
    await model.began.wait()
    others = [asyncio.create_task(o.once(caller(), request_id, model)) for o in (one, two, two)]
    done, _ = await asyncio.wait(others, timeout=0.1)
    assert not done
    model.may_answer.set()
    answers = await asyncio.gather(first, *others)
    assert [is_repeat for _, is_repeat in answers] == [False, True, True, True]
    assert {answer["text"] for answer, _ in answers} == {"answer 1"}


async def test_a_failure_is_not_kept_and_the_next_makes_the_call(store: Make) -> None:
    once, request_id, model = await an_idempotency(store), new_id("req"), Model()

    async def fail() -> dict[str, Any]:
        raise ProviderError("no")

    with pytest.raises(ProviderError):
        await once.once(caller(), request_id, fail)
    assert (await once.once(caller(), request_id, model))[1] is False


async def test_a_caller_that_leaves_gives_its_place_back(store: Make) -> None:
    once, request_id, model = await an_idempotency(store), new_id("req"), Model()
    model.may_answer.clear()
    first = asyncio.create_task(once.once(caller(), request_id, model))
    await model.began.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    model.may_answer.set()
    async with asyncio.timeout(5):
        assert (await once.once(caller(), request_id, model))[1] is False
    assert model.calls == 2


async def test_a_dead_process_loses_its_lease(store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "LEASE_S", 1)
    dead, alive = await store(), await an_idempotency(store)
    request_id, model = new_id("req"), Model()
    place = idempotency._Slot(dead, caller(), request_id, new_id)
    assert await place.take() is None  # and nothing more is ever heard of it
    async with asyncio.timeout(15):
        assert (await alive.once(caller(), request_id, model))[1] is False


async def test_a_long_call_keeps_its_lease(store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "LEASE_S", 1)
    monkeypatch.setattr(idempotency, "RENEW_S", 0.2)
    one, two = await an_idempotency(store), await an_idempotency(store)
    request_id, model = new_id("req"), Model()
    model.may_answer.clear()
    first = asyncio.create_task(one.once(caller(), request_id, model))
    await model.began.wait()
    other = asyncio.create_task(two.once(caller(), request_id, model))
    done, _ = await asyncio.wait([other], timeout=2.5)
    assert not done
    model.may_answer.set()
    assert [r for _, r in await asyncio.gather(first, other)] == [False, True]
    assert model.calls == 1


async def test_waiting_has_an_end(store: Make) -> None:
    one, two = await an_idempotency(store), await an_idempotency(store, wait_s=0.2)
    request_id, model = new_id("req"), Model()
    model.may_answer.clear()
    first = asyncio.create_task(one.once(caller(), request_id, model))
    await model.began.wait()
    with pytest.raises(TimedOutError):
        await two.once(caller(), request_id, model)
    model.may_answer.set()
    await first


async def test_a_huge_answer_is_not_kept_and_says_its_usage(store: Make) -> None:
    once, request_id = await an_idempotency(store), new_id("req")

    async def huge() -> dict[str, Any]:
        return {"text": "x" * 300_000, "usage": {"input_tokens": 7}}

    assert (await once.once(caller(), request_id, huge))[1] is False
    with pytest.raises(ConflictError) as refused:
        await once.once(caller(), request_id, huge)
    assert refused.value.details["usage"] == {"input_tokens": 7}


async def test_a_first_attempt_of_the_runtime_is_kept_for_its_second(store: Make) -> None:
    once, request_id, model = await an_idempotency(store), new_id("req"), Model()
    first = caller(is_first_attempt=True)
    assert (await once.once(first, request_id, model))[1] is False
    assert (await once.once(caller(), request_id, model))[1] is True
    assert model.calls == 1
