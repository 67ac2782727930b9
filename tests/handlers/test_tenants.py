"""The tenant's commands: who may, what counts, what repeats, and what other processes see."""

import asyncio
from typing import Any

import pytest

from agentos.domain.auth import ADMIN_SCOPES, PLATFORM_SCOPES, USER_SCOPES, AuthContext, Principal
from agentos.domain.errors import (
    AgentOSError,
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    InvalidStateTransitionError,
    NotFoundError,
    QuotaExceededError,
    TenantDisabledError,
    TenantUnknownError,
)
from agentos.domain.log import Commit
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.handlers.parts import Parts
from agentos.handlers.routes import handle
from agentos.handlers.sweep import sweep
from agentos.handlers.tenants import merged
from agentos.infra.memory.log import MemoryLog
from tests.domain.given import TRACE
from tests.handlers.auditor.audited import audit_all, records_of
from tests.handlers.node import Node, UnevenLog, a_node, create, settle
from tests.handlers.virtual import virtual_time

SCOPES = {
    "platform_admin": PLATFORM_SCOPES,
    "tenant_admin": ADMIN_SCOPES,
    "tenant_user": USER_SCOPES,
}


def admin(role: str = "platform_admin", tenant_id: str = "tnt_root") -> AuthContext:
    """Return an administrator."""
    principal = Principal(principal_id=f"usr_{role}")
    return AuthContext(tenant_id=tenant_id, principal=principal, scopes=SCOPES[role], roles=(role,))


async def send(
    parts: Parts,
    command_name: str,
    tenant_id: str = "tnt_a",
    /,
    auth: AuthContext | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Send a command as it comes over the bus."""
    command = {"traceparent": TRACE, "tenant_id": tenant_id, **more}
    auth = auth or admin()
    message = {"auth": auth.model_dump(mode="json"), "command": command}
    return await handle(parts, command_name, message)


async def made(node: Node, tenant_id: str = "tnt_a", **profile: Any) -> Parts:
    """Return a handler process, and a tenant made through it."""
    parts = await node.handlers()
    await send(parts, "tenant.create", tenant_id, profile={"name": "A", **profile})
    return parts


async def audited_in(node: Node, tenant_id: str = "tnt_a") -> list[dict[str, Any]]:
    """Let the auditor record what there is; return a tenant's records."""
    await audit_all(node.log)
    return await records_of(node.log, tenant_id)


async def log_of(node: Node, tenant_id: str = "tnt_a") -> list[str]:
    """Return the short types of a tenant's events."""
    records = await MemoryLog.read(node.log, tenant_ref(tenant_id))
    return [t.removeprefix("agentos.tenant.") for r in records for t in r.types]


@virtual_time
async def test_a_tenant_is_made_with_the_defaults_of_its_plan_and_recorded() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        answer = await send(parts, "tenant.create", profile={"name": "A"}, correlation_id="corr_1")
        tenant = answer["tenant"]
        assert (tenant["tenant_id"], tenant["status"]) == ("tnt_a", "active")
        assert tenant["plan_tier"] == "standard"
        assert tenant["quotas"]["runs"]["max_concurrent_runs"] == 100
        (record,) = await node.log.read(tenant_ref("tnt_a"))
        assert record.position == answer["position"]
        (audited,) = await audited_in(node)
        assert (audited["action"], audited["correlation_id"]) == ("tenants.create", "corr_1")
        assert audited["principal"]["principal_id"] == "usr_platform_admin"
        assert audited["meta"]["by_tenant"] == "tnt_root"


@virtual_time
async def test_an_id_is_given_once_for_ever() -> None:
    async with a_node() as node:
        parts = await made(node)
        with pytest.raises(ConflictError):
            await send(parts, "tenant.create", profile={"name": "B"})
        await send(parts, "tenant.disable")
        await send(parts, "tenant.delete", confirm="tnt_a")
        with pytest.raises(ConflictError):
            await send(parts, "tenant.create", profile={"name": "B"})
        with pytest.raises(ConflictError):
            await send(parts, "tenant.create", "tnt_node", profile={"name": "B"})
        for name in ("update", "enable", "disable", "delete"):
            more: dict[str, Any] = {"changes": {}} if name == "update" else {}
            with pytest.raises(NotFoundError):
                await send(parts, f"tenant.{name}", **more)
        with pytest.raises(TenantUnknownError):
            await create(parts)
        assert len(await audited_in(node)) == 3


@virtual_time
async def test_a_change_is_merged_or_whole() -> None:
    async with a_node() as node:
        parts = await made(
            node,
            quotas={"runs": {"max_concurrent_runs": 5, "run_create_qps": 2}},
            metadata={"tags": ["x"]},
        )
        changes = {"quotas": {"runs": {"max_concurrent_runs": 7, "run_create_qps": None}}}
        tenant = (await send(parts, "tenant.update", changes=changes))["tenant"]
        assert tenant["quotas"]["runs"]["max_concurrent_runs"] == 7
        assert tenant["quotas"]["runs"]["run_create_qps"] == 50  # the plan's again
        assert tenant["metadata"]["tags"] == ["x"]
        whole = {"plan_tier": "premium"}
        answer = await send(parts, "tenant.update", changes=whole, is_whole=True)
        assert answer["tenant"]["quotas"]["runs"]["max_concurrent_runs"] == 1000
        assert (answer["tenant"]["name"], answer["tenant"]["metadata"]["tags"]) == ("A", [])
        before = await log_of(node)
        await send(parts, "tenant.update", changes={"plan_tier": "premium"})
        assert await log_of(node) == before == ["created", "updated", "updated"]


@pytest.mark.parametrize(
    "quotas",
    [
        {"runs": {"max_concurrent_runs": -1}},
        {"runs": {"max_concurrent_runs": 10**16}},
        {"runs": {"run_create_qps": 0}},
        {"models": {"token_budget": {"max_tokens": -1}}},
        {"models": {"token_budget": {"window": "year"}}},
        {"storage": {"max_memory_bytes": 1e300}},
        "many",
    ],
)
def test_a_quota_that_is_no_quota_changes_nothing(quotas: Any) -> None:
    @virtual_time
    async def check() -> None:
        async with a_node() as node:
            parts = await made(node)
            with pytest.raises(InvalidRequestError) as caught:
                await send(parts, "tenant.update", changes={"quotas": quotas})
            assert caught.value.details["errors"]
            assert await log_of(node) == ["created"]

    check()


@pytest.mark.parametrize(
    "budget", [{"max_tokens_per_hour": -1}, {"max_tokens_per_day": "many"}, [1], 7]
)
def test_a_policy_budget_that_is_none_changes_nothing(budget: Any) -> None:
    @virtual_time
    async def check() -> None:
        async with a_node() as node:
            parts = await made(node)
            with pytest.raises(InvalidRequestError) as caught:
                await send(parts, "tenant.update", changes={"policy": {"token_budget": budget}})
            assert caught.value.details["errors"][0]["loc"][:2] == ["policy", "token_budget"]
            assert await log_of(node) == ["created"]
            good = {"token_budget": {"max_tokens_per_hour": 5}}
            await send(parts, "tenant.update", changes={"policy": good})

    check()


@virtual_time
async def test_two_changes_at_once_are_both_kept() -> None:
    async with a_node(UnevenLog(2)) as node:
        first = await made(node)
        second = await node.handlers()
        await asyncio.gather(
            send(first, "tenant.update", changes={"name": "B"}),
            send(second, "tenant.update", changes={"metadata": {"tags": ["t"]}}),
            send(second, "tenant.update", changes={"quotas": {"tools": None, "storage": {}}}),
        )
        tenant = Tenant(tenant_ref("tnt_a")).fold(await node.log.read(tenant_ref("tnt_a")))
        assert (tenant.profile.name, tenant.profile.metadata.tags) == ("B", ("t",))


@virtual_time
async def test_a_repeat_returns_the_first_answer_and_another_body_is_a_conflict() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        body: dict[str, Any] = {"profile": {"name": "A"}, "command_id": "cmd_1"}
        first = await send(parts, "tenant.create", **body)
        await send(parts, "tenant.update", changes={"name": "B"}, command_id="cmd_2")
        assert await send(parts, "tenant.create", **body) == first
        with pytest.raises(ConflictError):
            await send(parts, "tenant.create", profile={"name": "C"}, command_id="cmd_1")
        await send(parts, "tenant.disable", command_id="cmd_3")
        await send(parts, "tenant.enable", command_id="cmd_4")
        again = await send(parts, "tenant.disable", command_id="cmd_3")
        assert again["tenant"]["status"] == "disabled"
        assert await log_of(node) == ["created", "updated", "disabled", "enabled"]
        assert len(await audited_in(node)) == 4


@virtual_time
async def test_what_a_tenants_own_admin_may() -> None:
    async with a_node() as node:
        parts = await made(node, quotas={"runs": {"max_concurrent_runs": 5}})
        await send(parts, "tenant.create", "tnt_b", profile={"name": "B"})
        own = admin("tenant_admin", "tnt_a")
        lower = {"quotas": {"runs": {"max_concurrent_runs": 4}}, "metadata": {"tags": ["x"]}}
        answer = await send(parts, "tenant.update", auth=own, changes=lower)
        assert answer["tenant"]["quotas"]["runs"]["max_concurrent_runs"] == 4
        forbidden: list[dict[str, Any]] = [
            {"quotas": {"runs": {"max_concurrent_runs": 5}}},
            {"quotas": {"runs": None}},
            {"quotas": {"models": {"token_budget": {"window": "minute", "max_tokens": 1}}}},
            {"plan_tier": "premium"},
            {"entitlements": {"tool_ids_allowed": []}},
            {"policy": {"denied_models": ["x"]}},
            {"default_policy_id": "pol_x"},
            {"name": "B"},
        ]
        for changes in forbidden:
            with pytest.raises(ForbiddenError) as caught:
                await send(parts, "tenant.update", auth=own, changes=changes)
            assert caught.value.details["required_scope"] == "platform:admin"
        with pytest.raises(ForbiddenError):
            await send(parts, "tenant.update", auth=own, changes={}, is_whole=True)
        for name in ("enable", "disable", "delete"):
            with pytest.raises(ForbiddenError):
                await send(parts, f"tenant.{name}", auth=own)
            with pytest.raises(NotFoundError):
                await send(parts, f"tenant.{name}", "tnt_b", auth=own)
        with pytest.raises(ForbiddenError):
            await send(parts, "tenant.create", "tnt_c", auth=own, profile={"name": "C"})
        with pytest.raises(NotFoundError):
            await send(parts, "tenant.update", "tnt_b", auth=own, changes={})
        with pytest.raises(ForbiddenError):
            await send(parts, "tenant.update", auth=admin("tenant_user", "tnt_a"), changes={})
        assert await log_of(node) == ["created", "updated"]


@virtual_time
async def test_the_admin_of_a_disabled_tenant_may_nothing() -> None:
    async with a_node() as node:
        parts = await made(node)
        await send(parts, "tenant.disable")
        with pytest.raises(TenantDisabledError):
            await send(parts, "tenant.update", auth=admin("tenant_admin", "tnt_a"), changes={})


@virtual_time
async def test_nobody_locks_themselves_out() -> None:
    async with a_node() as node:
        parts = await made(node)
        with pytest.raises(ConflictError):
            await send(parts, "tenant.disable", auth=admin(tenant_id="tnt_a"))
        assert await log_of(node) == ["created"]


@virtual_time
async def test_deletion_asks_for_a_disabled_tenant_and_a_confirmation() -> None:
    async with a_node() as node:
        parts = await made(node)
        with pytest.raises(InvalidStateTransitionError):
            await send(parts, "tenant.delete", confirm="tnt_a")
        await send(parts, "tenant.disable")
        for confirm in ("", "tnt_b"):
            with pytest.raises(ConflictError):
                await send(parts, "tenant.delete", confirm=confirm)
        answer = await send(parts, "tenant.delete", confirm="tnt_a")
        assert answer["tenant"]["status"] == "deleted"


@virtual_time
async def test_disabled_enabled_and_raised_count_at_once_here_and_soon_elsewhere() -> None:
    async with a_node() as node:
        await node.tenant(max_concurrent_runs=1)
        parts, other = await node.handlers(), await node.handlers()
        await create(parts)
        with pytest.raises(QuotaExceededError):
            await create(other)
        raised = {"quotas": {"runs": {"max_concurrent_runs": 2}}}
        await send(parts, "tenant.update", changes=raised)
        await create(other)  # not settled: nothing is refused from stale memory
        await send(parts, "tenant.disable")
        with pytest.raises(TenantDisabledError):
            await create(parts)
        await settle()
        with pytest.raises(TenantDisabledError):
            await create(other)
        raised = {"quotas": {"runs": {"max_concurrent_runs": 3}}}
        await send(parts, "tenant.update", changes=raised)
        await send(parts, "tenant.enable")
        await create(other)


@virtual_time
async def test_a_keyed_run_sees_a_raised_quota_too() -> None:
    async with a_node() as node:
        await node.tenant(max_concurrent_runs=0)
        parts, other = await node.handlers(), await node.handlers()
        with pytest.raises(QuotaExceededError):
            await create(other, key="k")
        raised = {"quotas": {"runs": {"max_concurrent_runs": 1}}}
        await send(parts, "tenant.update", changes=raised)
        await create(other, key="k")


@virtual_time
async def test_drained_runs_go_on_and_canceled_ones_end() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        await node.beat()
        queued, held = [(await create(parts))["run"]["run_id"] for _ in range(2)]
        await node.start(held)
        await settle()
        await send(parts, "tenant.disable", runs="drain")
        await settle()
        await sweep(parts)
        assert await node.live() == {queued, held}
        heard: list[str] = []
        await node.signals.subscribe(
            f"notice.cancel.{held}", lambda subject, data: heard.append(subject)
        )
        await send(parts, "tenant.disable", runs="cancel")
        assert (await node.run(queued)).status == "canceled"
        run = await node.run(held)
        assert (run.is_final, run.cancel is not None) == (False, True)
        await settle()
        assert heard  # its holder ends it
        await settle(3)
        await sweep(parts)
        assert (await node.run(held)).status == "canceled"
        await settle()
        assert (await node.admission()).active == {}


@virtual_time
async def test_what_a_crash_left_is_canceled_by_whoever_comes_next() -> None:
    async with a_node(log := UnevenLog()) as node:
        await node.tenant()
        parts = await node.handlers()
        runs = [(await create(parts))["run"]["run_id"] for _ in range(3)]
        log.fail = lambda commit: "before" if commit.ref.kind == "run" else None
        await send(parts, "tenant.disable", runs="cancel")
        log.fail = lambda _: None
        assert await node.live() == set(runs)
        await node.close()
        fresh = await node.handlers()
        assert fresh.watch.closed == {"tnt_a"}
        await sweep(fresh)
        assert await node.live() == set()


@virtual_time
async def test_an_updated_disabled_tenant_is_still_closed_to_a_new_process() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        run = (await create(parts))["run"]["run_id"]
        await send(parts, "tenant.disable", runs="drain")
        await send(parts, "tenant.update", changes={"name": "B"})
        fresh = await node.handlers()
        assert fresh.watch.closed == {"tnt_a"}
        await sweep(fresh)
        assert await node.live() == {run}
        await send(parts, "tenant.delete", confirm="tnt_a")
        await settle()
        await sweep(fresh)
        assert await node.live() == set()


@virtual_time
async def test_a_thousand_runs_are_canceled_and_a_hundred_more() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        await asyncio.gather(*(create(parts) for _ in range(1100)))
        await settle()
        await send(parts, "tenant.disable", runs="cancel")
        await settle()
        assert len(await node.live()) == 1100 - 1024
        await sweep(parts)
        assert await node.live() == set()


@virtual_time
async def test_when_the_log_is_away_the_change_can_be_sent_again() -> None:
    async with a_node(log := UnevenLog()) as node:
        parts = await node.handlers()

        def lost(commit: Commit) -> str | None:
            return "after" if commit.ref.kind == "tenant" else None

        log.fail = lost
        with pytest.raises(AgentOSError):
            await send(parts, "tenant.create", profile={"name": "A"}, command_id="cmd_1")
        log.fail = lambda _: None
        answer = await send(parts, "tenant.create", profile={"name": "A"}, command_id="cmd_1")
        assert answer["tenant"]["status"] == "active"
        assert len(await audited_in(node)) == 1  # not lost, and not twice
        await send(parts, "tenant.create", profile={"name": "A"}, command_id="cmd_1")
        assert len(await audited_in(node)) == 1


def test_a_merge_patch() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert merged(base, {"a": {"b": None, "e": {"f": None, "g": 1}}, "d": [2], "x": None}) == {
        "a": {"c": 2, "e": {"g": 1}},
        "d": [2],
    }
    assert merged({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}}


@virtual_time
async def test_what_an_administrator_of_another_tenant_does_without_an_event_is_recorded() -> None:
    async with a_node() as node:
        parts = await made(node)
        key_id = (await send(parts, "key.issue"))["key"]["key_id"]
        calls: list[tuple[str, str, dict[str, Any]]] = [
            ("tenants.update", "tenant.update", {"changes": {}}),
            ("tenants.update", "tenant.update", {"changes": {}}),
            ("tenants.enable", "tenant.enable", {}),
            ("subjects.erase", "subject.erase", {"subject": "usr_ida", "dry_run": True}),
            ("subjects.erase", "subject.erase", {"subject": "usr_ida"}),
            ("keys.revoke", "key.revoke", {"key_id": key_id}),
            ("keys.revoke", "key.revoke", {"key_id": key_id}),
        ]
        for _, name, more in calls:
            await send(parts, name, **more)
        found = await records_of(node.log, "tnt_a")
        assert [r["action"] for r in found] == [
            action for at, (action, _, _) in enumerate(calls) if at != 5
        ], "the first revocation has an event, which the auditor records"
        for one in found:
            assert one["meta"] == {"by_tenant": "tnt_root", "changed": False}
            assert (one["outcome"], one["resource"]) == ("allowed", "tnt_a")
        own = admin("tenant_admin", "tnt_a")
        await send(parts, "tenant.update", auth=own, changes={})
        assert len(await records_of(node.log, "tnt_a")) == len(found)


@virtual_time
async def test_nothing_is_shown_that_cannot_be_recorded() -> None:
    async with a_node(log := UnevenLog()) as node:
        parts = await made(node)
        log.fail = lambda commit: "before" if commit.ref.kind == "audit" else None
        for name, more in (
            ("tenant.update", {"changes": {}}),
            ("subject.erase", {"subject": "usr_ida", "dry_run": True}),
        ):
            with pytest.raises(AgentOSError):
                await send(parts, name, **more)
