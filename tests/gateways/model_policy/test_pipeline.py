"""Every model call passes the same gates in the same order, whichever door it came by."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from agentos.domain.errors import (
    ConflictError,
    DependencyUnavailableError,
    ForbiddenError,
    InvalidRequestError,
    PolicyBlockedError,
    ProviderError,
    QuotaExceededError,
    RateLimitedError,
    TenantUnknownError,
)
from agentos.domain.ports import ToolOffer
from tests.gateways.model_policy.world import World, a_world, caller, chat, embed, openai_catalog
from tests.infra.models.openai_server import (
    chunk,
    hang,
    openai_server,
    raw,
    status,
    stream,
    usage_chunk,
)

MAIL = {"name": "mail", "effect": "redact", "when": {"pii_types": ["email"]}}
NO_SECRETS = {
    "name": "no-plans",
    "effect": "block",
    "when": {"content_patterns": [{"name": "plan", "regex": "secret plan"}]},
}


async def last_usage(world: World) -> Any:
    return (await world.usage())[-1]


async def test_a_tenant_that_is_not_there_is_refused() -> None:
    async with a_world() as world, world.services() as services:
        nobody = caller()
        other = replace(nobody, auth=nobody.auth.model_copy(update={"tenant_id": "tnt_none"}))
        with pytest.raises(TenantUnknownError):
            await services.pipeline.chat(other, chat("hi"))


async def test_a_call_is_answered_and_recorded() -> None:
    async with a_world() as world:
        async with world.services() as services:
            completed = await services.pipeline.chat(caller(), chat("hello there"))
        assert completed.answer.content == "hello there"
        outcome = completed.outcome
        assert (outcome.decision, outcome.backend, outcome.model) == ("allowed", "builtin", "echo")
        assert outcome.reasons[0] == "pol_default@1"
        recorded = await last_usage(world)
        assert (recorded.status, recorded.usage.total_tokens) == ("ok", 6)
        assert recorded.route is not None
        assert recorded.route.name == "builtin/echo"
        event = (await world.usage_events())[-1]
        assert event.principal is not None
        assert event.principal.principal_id == "usr_a"
        assert "hello" not in event.payload.model_dump_json()


async def test_personal_data_does_not_reach_the_model_and_does_not_come_back() -> None:
    async with a_world() as world, openai_server() as server:
        await world.catalog(**openai_catalog(server.base_url))
        async with world.services() as services:
            completed = await services.pipeline.chat(
                caller(), chat("write to ann@example.com", "a/m")
            )
        assert "ann@" not in str(server.bodies)
        assert "[EMAIL]" in str(server.bodies)
        assert completed.outcome.decision == "redacted"
        (first, *_) = completed.outcome.redactions
        assert (first["field"], first["start"], first["end"]) == ("messages[0].content", 9, 24)
        recorded = await last_usage(world)
        assert recorded.policy is not None
        assert recorded.policy.findings["input"] == {"email": 1}


async def test_a_block_of_input_calls_nobody_and_costs_no_tokens() -> None:
    async with a_world() as world, openai_server() as server:
        await world.catalog(**openai_catalog(server.base_url))
        await world.policy(NO_SECRETS)
        async with world.services() as services:
            with pytest.raises(PolicyBlockedError) as blocked:
                await services.pipeline.chat(caller(), chat("the secret plan", "a/m"))
        assert not server.bodies
        assert blocked.value.details["reasons"] == ["pol_a@1", "block:no-plans"]
        assert blocked.value.details["policy_outcome"]["decision"] == "blocked"
        recorded = await last_usage(world)
        assert (recorded.status, recorded.usage.total_tokens) == ("blocked", 0)


async def test_a_block_of_output_is_charged() -> None:
    body = {"choices": [{"message": {"content": "my secret plan"}, "finish_reason": "stop"}]}
    body["usage"] = {"prompt_tokens": 10, "completion_tokens": 5}  # type: ignore[assignment]
    async with (
        a_world() as world,
        openai_server(raw(json.dumps(body).encode(), "application/json")) as server,
    ):
        await world.catalog(**openai_catalog(server.base_url))
        await world.policy(NO_SECRETS)
        async with world.services() as services:
            with pytest.raises(PolicyBlockedError):
                await services.pipeline.chat(caller(), chat("go on", "a/m"))
        recorded = await last_usage(world)
        assert (recorded.status, recorded.usage.total_tokens) == ("blocked", 15)
        assert recorded.cost_usd == pytest.approx((10 * 2 + 5 * 8) / 1_000_000)


async def test_a_streamed_answer_is_looked_at_across_its_pieces() -> None:
    pieces = [chunk({"content": text}) for text in ("write to an", "n@exam", "ple.com", " today")]
    whole = stream([*pieces, chunk({}, "stop"), usage_chunk(10, 6)])
    async with a_world() as world, openai_server(whole) as server:
        await world.catalog(**openai_catalog(server.base_url))
        await world.policy(MAIL)
        seen: list[str] = []
        async with world.services() as services:
            completed = await services.pipeline.chat(caller(), chat("hi", "a/m"), seen.append)
        assert "".join(seen) == completed.answer.content == "write to [EMAIL] today"
        assert completed.outcome.redactions[0]["field"] == "output.content"


async def test_a_stream_that_is_blocked_stops_where_it_is() -> None:
    pieces = [chunk({"content": text}) for text in ("the weather, then the sec", "ret plan", "!")]
    whole = stream([*pieces, chunk({}, "stop"), usage_chunk(10, 6)])
    async with a_world() as world, openai_server(whole) as server:
        await world.catalog(**openai_catalog(server.base_url))
        await world.policy(NO_SECRETS)
        seen: list[str] = []
        async with world.services() as services:
            with pytest.raises(PolicyBlockedError):
                await services.pipeline.chat(caller(), chat("hi", "a/m"), seen.append)
        assert "secret" not in "".join(seen)
        recorded = await last_usage(world)
        assert recorded.status == "blocked"
        assert recorded.policy is not None
        assert recorded.policy.decision == "blocked"
        assert "block:no-plans" in recorded.policy.reasons


async def test_what_is_said_of_tools_is_looked_at_too() -> None:
    schema = {"type": "object", "properties": {"to": {"description": "as for bo@example.com"}}}
    tool = ToolOffer("mail", "mail", "writes to ann@example.com", schema)
    async with a_world() as world, openai_server() as server:
        await world.catalog(**openai_catalog(server.base_url))
        async with world.services() as services:
            done = await services.pipeline.chat(caller(), chat("hi", "a/m", tools=[tool]))
        assert "@example" not in str(server.bodies)
        assert {r["field"] for r in done.outcome.redactions} == {
            "tools[0].description",
            "tools[0].input_schema.properties.to.description",
        }


async def test_another_model_is_tried_and_said_to_be() -> None:
    async with a_world() as world, openai_server(status(500, {"error": {}})) as bad:
        async with openai_server() as good:
            await world.catalog(**openai_catalog(bad.base_url, good.base_url))
            async with world.services() as services:
                completed = await services.pipeline.chat(caller(), chat("hi", "chain"))
        assert (completed.outcome.backend, completed.outcome.fallback_used) == ("b", True)
        recorded = await last_usage(world)
        assert recorded.route is not None
        assert [a.outcome for a in recorded.route.attempts] == ["provider_error", "ok"]
        assert recorded.route.fallback_used


async def test_a_policy_may_send_content_to_another_model_only() -> None:
    rule = {
        "name": "not-a",
        "effect": "block",
        "when": {"backend": ["a"], "data_classification": ["restricted"]},
    }
    async with a_world() as world, openai_server() as one, openai_server() as other:
        await world.catalog(**openai_catalog(one.base_url, other.base_url))
        await world.policy(rule)
        restricted = caller(context={"data_classification": "restricted"})
        async with world.services() as services:
            completed = await services.pipeline.chat(restricted, chat("hi", "chain"))
            assert completed.outcome.backend == "b"
            with pytest.raises(PolicyBlockedError):
                await services.pipeline.chat(restricted, chat("hi", "a/m"))
        assert not one.bodies


async def test_a_model_the_tenant_is_not_entitled_to_is_refused_and_recorded() -> None:
    async with a_world() as world:
        await world.tenant(entitlements={"models_denied": ["builtin/echo"]})
        async with world.services() as services:
            with pytest.raises(ForbiddenError):
                await services.pipeline.chat(caller(), chat("hi"))
            with pytest.raises(InvalidRequestError):
                await services.pipeline.chat(caller(), chat("hi", "no/such"))
        assert [u.status for u in await world.usage()] == ["refused", "refused"]


async def test_tokens_over_the_tenants_limit_a_request_are_refused() -> None:
    async with a_world() as world, openai_server() as server:
        await world.catalog(**openai_catalog(server.base_url))
        await world.tenant(quotas={"models": {"max_tokens_per_request": 50}})
        async with world.services() as services:
            with pytest.raises(InvalidRequestError):
                await services.pipeline.chat(caller(), chat("hi", "a/m", max_output_tokens=51))
            await services.pipeline.chat(caller(), chat("hi", "a/m"))
        assert server.bodies[-1]["max_tokens"] == 50


async def test_what_was_used_counts_and_a_call_that_does_not_fit_is_refused() -> None:
    budget = {"token_budget": {"window": "day", "max_tokens": 200}}
    async with a_world() as world:
        await world.tenant(quotas={"models": budget})
        async with world.services() as services:
            await services.pipeline.chat(caller(), chat("x" * 40))  # 10 in, 10 out
            with pytest.raises(QuotaExceededError) as refused:
                await services.pipeline.chat(caller(), chat("x" * 400))
            assert refused.value.details["limit"] == 200
            assert refused.value.to_wire()["retryable"] is False
            await services.pipeline.chat(caller(), chat("hi"))


async def test_sixty_calls_at_the_edge_never_pass_the_limit() -> None:
    budget = {"token_budget": {"window": "day", "max_tokens": 1000}}
    async with a_world() as world:
        await world.tenant(quotas={"models": budget})
        async with world.services() as one, world.services() as two:
            calls = [
                (one, two)[number % 2].pipeline.chat(caller(), chat("x" * 40))
                for number in range(60)
            ]
            results = await asyncio.gather(*calls, return_exceptions=True)
        done = [r for r in results if not isinstance(r, BaseException)]
        assert all(isinstance(r, QuotaExceededError) for r in results if r not in done)
        assert 0 < 20 * len(done) <= 1000
        assert sum(u.usage.total_tokens for u in await world.usage()) == 20 * len(done)


async def test_requests_over_the_rate_are_told_when_to_come_back() -> None:
    async with a_world() as world:
        await world.tenant(quotas={"models": {"max_requests_per_minute": 2}})
        async with world.services() as services:
            for _ in range(2):
                await services.pipeline.chat(caller(), chat("hi"))
            with pytest.raises(RateLimitedError) as refused:
                await services.pipeline.chat(caller(), chat("hi"))
        assert 0 < refused.value.details["retry_after_ms"] <= 60_000


async def test_a_failure_before_the_model_began_gives_the_reservation_back() -> None:
    budget = {"token_budget": {"window": "day", "max_tokens": 10_000}}
    async with a_world() as world:
        await world.catalog(**openai_catalog("http://127.0.0.1:1/v1"))
        await world.tenant(quotas={"models": budget})
        async with world.services() as services:
            for _ in range(5):
                with pytest.raises(DependencyUnavailableError):
                    await services.pipeline.chat(caller(), chat("hi", "a/m"))
            completed = await services.pipeline.chat(caller(), chat("x" * 4000))
        assert completed.outcome.backend == "builtin"


async def test_a_stream_that_breaks_off_is_an_error_and_charged() -> None:
    async with (
        a_world() as world,
        openai_server(stream([chunk({"content": "half an ans"})], done=False)) as server,
    ):
        await world.catalog(**openai_catalog(server.base_url))
        seen: list[str] = []
        async with world.services() as services:
            with pytest.raises(ProviderError):
                await services.pipeline.chat(caller(), chat("hi", "a/m"), seen.append)
        recorded = await last_usage(world)
        assert recorded.status == "error"
        assert recorded.usage.output_tokens >= 3
        assert seen


async def test_a_caller_that_leaves_is_charged_and_marked() -> None:
    budget = {"token_budget": {"window": "day", "max_tokens": 10_000}}
    async with a_world() as world, openai_server(hang) as server:
        await world.catalog(**openai_catalog(server.base_url))
        await world.tenant(quotas={"models": budget})
        async with world.services() as services:
            call = asyncio.create_task(services.pipeline.chat(caller(), chat("hi", "a/m")))
            async with asyncio.timeout(5):
                await server.asked.wait()
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            async with asyncio.timeout(5):
                await server.left.wait()
        recorded = await last_usage(world)
        assert recorded.status == "interrupted"
        assert recorded.usage.total_tokens > 0


@asynccontextmanager
async def without_limit() -> AsyncIterator[World]:
    """Give a world whose model `a/m` says more than it is asked for, and a tenant with a budget."""
    pieces = [chunk({"content": "word "}) for _ in range(400)]
    endless = stream([*pieces, chunk({}, "stop"), usage_chunk(10, 400)])
    budget = {"token_budget": {"window": "day", "max_tokens": 100_000}}
    async with a_world() as world, openai_server(endless) as server:
        await world.catalog(**openai_catalog(server.base_url))
        await world.tenant(quotas={"models": budget})
        yield world


async def test_a_backend_that_does_not_keep_its_limit_is_stopped() -> None:
    async with without_limit() as world:
        seen: list[str] = []
        async with world.services() as services:
            completed = await services.pipeline.chat(
                caller(), chat("hi", "a/m", max_output_tokens=20), seen.append
            )
        assert completed.answer.finish_reason == "length"
        assert "stopped:reservation_reached" in completed.outcome.reasons
        assert len("".join(seen).split()) <= 21


async def test_a_stream_cut_at_its_reservation_and_blocked_at_its_end_is_charged() -> None:
    async with without_limit() as world:
        seen: list[str] = []
        async with world.services() as services:

            def finish(_: object) -> str:
                raise PolicyBlockedError("policy does not allow this content", reasons=[])

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("agentos.gateways.model_policy.output.Output.finish", finish)
                with pytest.raises(PolicyBlockedError):
                    await services.pipeline.chat(
                        caller(), chat("hi", "a/m", max_output_tokens=20), seen.append
                    )
        recorded = await last_usage(world)
        assert recorded.status == "blocked"
        assert recorded.usage.output_tokens > 0


async def test_a_tenants_limit_over_a_models_is_the_models() -> None:
    async with a_world() as world, openai_server() as server:
        model = {"model_id": "a/m", "max_output_tokens": 100}
        await world.catalog(**openai_catalog(server.base_url) | {"models": [model]})
        await world.tenant(quotas={"models": {"max_tokens_per_request": 5_000}})
        async with world.services() as services:
            await services.pipeline.chat(caller(), chat("hi", "a/m"))
            with pytest.raises(InvalidRequestError):
                await services.pipeline.chat(caller(), chat("hi", "a/m", max_output_tokens=101))
        assert server.bodies[0]["max_tokens"] == 100


async def test_the_same_request_id_is_answered_once_and_billed_once() -> None:
    async with a_world() as world:
        request = chat("hello")
        async with world.services() as one, world.services() as two:
            first = await one.pipeline.chat(caller("f"), request)
            seen: list[str] = []
            again = await two.pipeline.chat(caller("f"), request, seen.append)
            with pytest.raises(ConflictError):
                await two.pipeline.chat(caller("g"), request)
        assert again.answer.content == first.answer.content == "".join(seen)
        assert again.outcome == first.outcome
        assert len(await world.usage()) == 1


async def test_texts_are_embedded_under_the_same_gates() -> None:
    async with a_world() as world:
        async with world.services() as services:
            embedded = await services.pipeline.embed(caller("f"), embed("one", "me@example.com"))
            assert len(embedded.answer.vectors) == 2
            assert {len(vector) for vector in embedded.answer.vectors} == {64}
            assert embedded.outcome.redactions[0]["field"] == "texts[1]"
            with pytest.raises(InvalidRequestError):
                await services.pipeline.embed(caller(), embed("one", model="builtin/echo"))
        assert (await world.usage())[0].operation == "embed"
