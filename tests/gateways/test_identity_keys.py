"""API keys, tenants that close, failures that are throttled and audited."""

import asyncio
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import pytest

from agentos.domain.auth import USER_SCOPES, AuthContext, Principal
from agentos.domain.errors import (
    DependencyUnavailableError,
    RateLimitedError,
    TenantDisabledError,
    UnauthorizedError,
)
from agentos.domain.key.key import Grant, Key, hash_secret, key_ref, make_secret, prefix_of
from agentos.domain.log import Recorded
from agentos.domain.subjects import StreamRef
from agentos.gateways.http.denials import KINDS, Denials
from agentos.gateways.http.identity import LocalIdentity
from agentos.gateways.http.keys import KeyUses
from agentos.gateways.http.tenants import Accounts
from agentos.gateways.http.throttle import Throttle
from agentos.infra.memory.bus import MemoryBus
from tests.gateways.conftest import SECRET, Door, Reader, bearer, eventually

KEY_ID: Final = "key_01ARZ3NDEKTSV4RRFFQ69G5FAV"
FIRST: Final = make_secret(KEY_ID, "a" * 43)
SECOND: Final = make_secret(KEY_ID, "b" * 43)
PATH: Final = "/v1/runs/run_none"
IN, OUT = 404, 401


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A gateway with two tenants."""
    opened = Door(tenants=("tnt_a", "tnt_b"), throttle=Throttle(rate=1, burst=1000))
    await opened.start()
    yield opened
    await opened.close()


async def issued(door: Door, **changes: Any) -> Key:
    """Write a new key and return it."""
    key = Key(key_ref("tnt_a", KEY_ID))
    values: dict[str, Any] = {
        "principal": Principal(principal_id="svc_a", principal_type="service"),
        "roles": ("tenant_service",),
        "scopes": tuple(USER_SCOPES),
    }
    grant = Grant(**(values | changes))
    await door.change_key(key, "issue", grant, prefix_of(FIRST), hash_secret(FIRST))
    return key


async def status(door: Door, headers: Mapping[str, str]) -> int:
    return (await door.call("GET", PATH, headers=headers))[0]


@pytest.mark.parametrize("headers", [{"X-API-Key": FIRST}, {"Authorization": f"Bearer {FIRST}"}])
async def test_a_key_gets_in_the_moment_it_is_written(door: Door, headers: dict[str, str]) -> None:
    await issued(door)
    got, body, answered = await door.call("GET", PATH, headers=headers)
    assert (got, body["error"]["code"]) == (404, "not_found")
    assert answered["X-Tenant-Id"] == "tnt_a"


async def test_a_key_is_revoked_at_once_and_its_streams_end(door: Door) -> None:
    key = await issued(door)
    await door.script("run_1").stage_created().write()
    headers = {"X-API-Key": FIRST}
    assert await status(door, headers) == IN
    async with door.client.get("/v1/runs/run_1/events", headers=headers) as response:
        reader = Reader(response)
        assert await reader.next() is not None
        await door.change_key(key, "revoke")
        async with asyncio.timeout(1):
            message = await reader.next()
            assert message is not None
            assert (message.event, message.data["error"]["code"]) == (
                "agentos.error",
                "unauthorized",
            )
            assert await reader.next() is None
    assert await status(door, headers) == OUT


async def test_a_key_that_rotates_has_two_secrets_for_a_while(door: Door) -> None:
    key = await issued(door)
    old, new = {"X-API-Key": FIRST}, {"X-API-Key": SECOND}
    assert await status(door, old) == IN
    assert await status(door, new) == OUT
    await door.change_key(key, "rotate", prefix_of(SECOND), hash_secret(SECOND), 400)
    assert await status(door, new) == IN
    assert await status(door, old) == IN
    async with asyncio.timeout(5):
        while await status(door, old) == IN:  # noqa: ASYNC110 - time ends the overlap, no event
            await asyncio.sleep(0.05)
    assert await status(door, new) == IN


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "abc",
        "aos_",
        FIRST[:-1],
        FIRST[:-1] + "b",
        make_secret("key_" + "0" * 26, "a" * 43),
    ],
)
async def test_other_secrets_do_not_get_in(door: Door, secret: str) -> None:
    await issued(door)
    assert await status(door, {"X-API-Key": secret}) in (400, OUT)
    assert await status(door, {"X-API-Key": FIRST}) == IN


@pytest.mark.parametrize("changes", [{"expires_at": 1}, {"kind": "subscriber"}])
async def test_keys_that_identify_nobody_here(door: Door, changes: dict[str, Any]) -> None:
    await issued(door, **changes)
    assert await status(door, {"X-API-Key": FIRST}) == OUT


async def test_a_keys_scopes_are_those_that_its_roles_have_too(door: Door) -> None:
    await issued(door, scopes=("runs:write", "agents:write", "platform:admin"))
    auth = await door.identity.identify([(b"x-api-key", FIRST.encode())])
    assert auth.scopes == {"runs:create", "runs:cancel"}
    assert auth.principal.principal_type == "service"
    again = await door.identity.identify([(b"x-api-key", FIRST.encode())])
    assert again is auth
    with pytest.raises(UnauthorizedError):
        await door.identity.identify([(b"authorization", FIRST.encode())])


async def test_a_tenant_header_that_disagrees_with_a_key(door: Door) -> None:
    await issued(door)
    headers = {"X-API-Key": FIRST, "X-Tenant-Id": "tnt_b"}
    got, body, _ = await door.call("GET", PATH, headers=headers)
    assert (got, body["error"]["code"]) == (400, "tenant_mismatch")


async def test_a_credential_of_a_megabyte_is_refused_and_the_door_stays_open(door: Door) -> None:
    for name, value in (("Authorization", "Bearer " + "x" * 2**20), ("X-API-Key", "x" * 2**20)):
        got, _, _ = await door.call("GET", PATH, headers={name: value})
        assert got == 400
    got, body, _ = await door.call("GET", PATH, headers={"Authorization": "Bearer " + "x" * 20_000})
    assert (got, body["error"]["code"]) == (401, "unauthorized")
    assert await status(door, bearer()) == IN


@pytest.mark.parametrize(
    "payload", ["[" * 9000, '{"iss": ["agentos-local"]}', '{"iss": "agentos-local", "exp": 1e999}']
)
async def test_hostile_tokens_are_unauthorized(door: Door, payload: str) -> None:
    parts = ('{"alg": "HS256", "typ": "JWT"}', payload, "x")
    forged = ".".join(urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
    assert await status(door, {"Authorization": f"Bearer {forged}"}) == OUT


@pytest.mark.parametrize(
    ("change", "code"), [("disable", "tenant_disabled"), ("delete", "tenant_unknown")]
)
@pytest.mark.parametrize("path", ["/v1/runs/run_1/events", "/v1/events"])
async def test_a_tenant_that_closes_ends_its_streams_within_a_second(
    door: Door, change: str, code: str, path: str
) -> None:
    await door.script("run_1").stage_created().write()
    async with (
        door.client.get(path, headers=bearer()) as response,
        door.client.get("/v1/events", headers=bearer(tenant_id="tnt_b")) as others,
    ):
        reader = Reader(response)
        await eventually(lambda: len(door.gateway.streams) == 2)
        await door.change_tenant("tnt_a", "disable", "drain")
        if change == "delete":
            await door.change_tenant("tnt_a", "delete")
        async with asyncio.timeout(1):
            messages = await reader.rest()
        assert messages[-1].event == "agentos.error"
        assert messages[-1].data["error"]["code"] in (code, "tenant_disabled")
        await eventually(lambda: len(door.gateway.streams) == 1)
        assert not others.content.at_eof()
    got, body, _ = await door.call("GET", PATH)
    assert (got, body["error"]["code"]) == (403, code)


async def test_an_enabled_tenant_gets_in_at_once(door: Door) -> None:
    await door.change_tenant("tnt_a", "disable", "drain")
    assert await status(door, bearer()) == 403
    await door.change_tenant("tnt_a", "enable")
    assert await status(door, bearer()) == IN


async def test_nothing_is_refused_from_memory_that_is_behind(door: Door) -> None:
    """A directory that never tailed anything still knows what the log knows."""
    accounts = Accounts(door.log)
    local = LocalIdentity(SECRET, allow_dev_headers=False, accounts=accounts)
    await accounts.require("tnt_a")
    await issued(door)
    assert (await local.identify([(b"x-api-key", FIRST.encode())])).tenant_id == "tnt_a"
    await door.change_tenant("tnt_b", "disable", "drain")
    await accounts.read_on()
    with pytest.raises(TenantDisabledError):
        await accounts.require("tnt_b")
    await door.change_tenant("tnt_b", "enable")
    await accounts.require("tnt_b")


class LostLog:
    """A log that cannot be reached."""

    async def last(self, ref: StreamRef) -> Recorded | None:
        raise DependencyUnavailableError("down", dependency="nats")

    def tail(self, **_: Any) -> AsyncIterator[Any]:
        async def nothing() -> AsyncIterator[Any]:
            raise DependencyUnavailableError("down", dependency="nats")
            yield

        return nothing()


async def test_what_the_log_cannot_be_asked_is_not_refused_but_unavailable() -> None:
    accounts = Accounts(LostLog())  # type: ignore[arg-type]  # all that is used of it
    local = LocalIdentity(SECRET, allow_dev_headers=False, accounts=accounts)
    with pytest.raises(DependencyUnavailableError):
        await accounts.require("tnt_a")
    with pytest.raises(DependencyUnavailableError):
        await local.identify([(b"x-api-key", FIRST.encode())])


async def test_failures_are_throttled_before_anything_is_verified_and_successes_never() -> None:
    now = 0.0
    throttle = Throttle(rate=10, burst=50, now=lambda: now)
    local = LocalIdentity(SECRET, allow_dev_headers=False, throttle=throttle)
    good = [(b"authorization", bearer()["Authorization"].encode())]
    await local.identify(good, "192.0.2.1")
    for at in range(50):
        with pytest.raises(UnauthorizedError):
            await local.identify([(b"authorization", b"Bearer %d" % at)], "192.0.2.1")
    with pytest.raises(RateLimitedError) as caught:
        await local.identify([(b"authorization", b"Bearer x")], "192.0.2.1")
    assert 0 < caught.value.details["retry_after_ms"] <= 101
    await local.identify(good, "192.0.2.1")
    with pytest.raises(UnauthorizedError):
        await local.identify([(b"authorization", b"Bearer x")], "192.0.2.2")
    now += 0.101
    with pytest.raises(UnauthorizedError):
        await local.identify([(b"authorization", b"Bearer x")], "192.0.2.1")
    with pytest.raises(RateLimitedError):
        await local.identify([(b"authorization", b"Bearer x")], "192.0.2.1")


def test_the_throttle_is_bounded_and_takes_a_network_of_ipv6_as_one() -> None:
    throttle = Throttle(rate=1, burst=1, max_sources=3, now=lambda: 0.0)
    throttle.failed("2001:db8::1")
    with pytest.raises(RateLimitedError):
        throttle.check("2001:db8::2")
    throttle.check("2001:db8:1::1")
    for at in range(10):
        throttle.failed(f"192.0.2.{at}")
    assert len(throttle._empty_at) == 3


async def test_who_is_throttled_hears_when_to_come_back() -> None:
    opened = Door(throttle=Throttle(rate=0.5, burst=1))
    await opened.start()
    wrong = {"Authorization": "Bearer x"}
    assert await status(opened, wrong) == OUT
    got, body, headers = await opened.call("GET", PATH, headers=wrong)
    assert (got, body["error"]["code"], headers["Retry-After"]) == (429, "rate_limited", "2")
    text = opened.gateway.metrics.text().decode()
    assert 'agentos_auth_failures_total{reason="malformed_token"} 1.0' in text
    assert 'agentos_auth_failures_total{reason="rate_limited"} 1.0' in text
    await opened.close()


async def test_refusals_reach_the_audit_counted_and_without_the_secret(door: Door) -> None:
    door.answer("audit.denials", {})
    key = await issued(door)
    await door.change_key(key, "revoke")
    for _ in range(3):
        await status(door, {"X-API-Key": FIRST})
    await status(door, {"X-API-Key": SECOND})
    await status(door, bearer(scope="usage:read"))
    await eventually(lambda: door.sent)
    name, auth, command = door.sent[0]
    assert (name, auth.tenant_id) == ("audit.denials", "tnt_node")
    about = {"resource": "GET /v1/runs/{run_id}", "source": "127.0.0.1"}
    found = [d for _, _, sent in door.sent for d in sent["denials"]]
    assert {
        "tenant_id": "tnt_a",
        "principal_id": "svc_a",
        "reason": "revoked_key",
    }.items() <= found[0].items()
    assert sum(d["count"] for d in found if d["reason"] == "revoked_key") == 3
    wanted: list[dict[str, Any]] = [
        {"reason": "wrong_secret", "tenant_id": None, "principal_id": None, "count": 1},
        {"reason": "forbidden", "tenant_id": "tnt_a", "principal_id": "usr_a", "count": 1},
    ]
    for one in wanted:
        assert any((about | one).items() <= denial.items() for denial in found)
    assert FIRST[30:] not in str(command)


async def test_refusals_are_bounded_and_kept_while_nobody_takes_them() -> None:
    bus = MemoryBus({})
    denials = Denials(bus)
    for at in range(2 * KINDS):
        denials.note(f"GET /{at}", "no_credential", "192.0.2.1", None)
    await denials.send()
    denials.note("GET /0", "no_credential", "192.0.2.1", None)
    taken: list[Any] = []

    async def take(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
        taken.extend(command["denials"])
        return {}

    bus.handlers["audit.denials"] = take
    await denials.send()
    assert len(taken) <= KINDS
    assert sum(denial["count"] for denial in taken) == 2 * KINDS + 1


class Usage:
    """Key usage in a dictionary."""

    def __init__(self) -> None:
        self.times: dict[StreamRef, int] = {}
        self.writes = 0
        self.down = False

    async def note(self, key: StreamRef, at_ms: int) -> None:
        if self.down:
            raise DependencyUnavailableError("down", dependency="nats")
        self.writes += 1
        self.times[key] = max(at_ms, self.times.get(key, 0))

    async def last_used(self, keys: Any) -> dict[StreamRef, int]:
        return {key: self.times[key] for key in keys if key in self.times}


async def test_the_time_of_the_last_use_is_written_once_however_often_a_key_is_used(
    door: Door,
) -> None:
    key, usage = await issued(door), Usage()
    uses = KeyUses(door.accounts, usage)
    before = time.time_ns() // 1_000_000
    for _ in range(5):
        await status(door, {"X-API-Key": FIRST})
    usage.down = True
    await uses.write()
    usage.down = False
    await uses.write()
    await uses.write()
    assert usage.writes == 1
    assert usage.times[key.ref] >= before
