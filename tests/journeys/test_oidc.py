"""A gateway process, a broker, and an OpenID provider process with real keys that rotate."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL, USER_SCOPES
from agentos.domain.envelope import NO_TRACE, Origin
from agentos.domain.key.key import Grant, Key, hash_secret, key_ref, make_secret, prefix_of
from agentos.domain.log import make_commit
from agentos.domain.ports import EventLog
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.infra.clock import SystemIds
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.key_usage import JetStreamKeyUsage
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.streams import provision
from agentos.infra.node.ports import pick_port
from tests.infra.embedded import EmbeddedNats
from tests.infra.oidc_provider import ProviderProcess, provider_process

AUDIENCE: Final = "https://agentos.test"
KEY_ID: Final = "key_01ARZ3NDEKTSV4RRFFQ69G5FAV"
SECRET_OF_KEY: Final = make_secret(KEY_ID, "k" * 43)
ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
GETS_IN: Final = (404, "not_found")
IS_REFUSED: Final = (401, "unauthorized")


def claims(**changes: Any) -> dict[str, Any]:
    """Return what a tenant user's token says."""
    now = int(time.time())
    full = {
        "aud": AUDIENCE,
        "exp": now + 600,
        "nbf": now,
        "iat": now,
        "tid": "tnt_oidc",
        "sub": "usr_o",
        "scp": ["runs:read"],
        **changes,
    }
    return {name: value for name, value in full.items() if value is not None}


class Door:
    """The gateway's door, as whoever has a token sees it."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.http = http

    async def ask(self, token: str, **headers: str) -> tuple[int, str]:
        """Return the status and code that a token gets."""
        sent = {"Authorization": f"Bearer {token}", **headers}
        async with self.http.get("/v1/runs/run_none", headers=sent) as answer:
            return answer.status, (await answer.json())["error"]["code"]


async def write(log: EventLog, aggregate: Tenant | Key, change: str, *arguments: Any) -> None:
    """Append what a command of the aggregate decides."""
    new_id = SystemIds()
    at = Moment(time.time_ns() // 1_000_000, new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))
    commit = make_commit(aggregate.ref, getattr(aggregate, change)(*arguments, at), new_id)
    await log.append(commit, expected=aggregate.position)
    aggregate.fold(await log.read(aggregate.ref, after=aggregate.position))


@asynccontextmanager
async def gateway(nats_url: str, directory: Path, **settings: str) -> AsyncIterator[Door]:
    """Run a gateway process that takes no dev headers."""
    ports: list[int] = []
    while len(ports) < 4:
        ports.append(pick_port(avoid=frozenset(ports)))
    names = ("ORCHESTRATOR", "MODEL_POLICY", "FEDERATION")
    others = {k: v for k, v in os.environ.items() if not k.startswith("AGENTOS_")}
    environment = others | {
        "AGENTOS_PROFILE": "dev",
        "AGENTOS_DATA_DIR": str(directory),
        "AGENTOS_NATS_URL": nats_url,
        "AGENTOS_POSTGRES_DSN": f"postgresql://nobody@127.0.0.1:{ports[3]}/none",
        "AGENTOS_ALLOW_DEV_HEADERS": "0",
        **{f"AGENTOS_{n}_PORT": str(p) for n, p in zip(names, ports, strict=False)},
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentos.cli.process", "gateway", cwd=directory, env=environment
    )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{ports[0]}") as http:
            await _up(http)
            yield Door(http)
    finally:
        process.terminate()
        async with asyncio.timeout(10):
            await process.wait()


async def _up(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                async with http.get("/readyz") as answer:
                    checks = (await answer.json())["error"]["details"]["checks"]
                    if checks["nats"] == "ok":
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)


@pytest.fixture
async def event_log(own_nats_server: EmbeddedNats) -> AsyncIterator[JetStreamLog]:
    """A log with one tenant."""
    await provision(own_nats_server.url, durability="process", expect_log=False)
    connection = await connect(own_nats_server.url, "test")
    log = JetStreamLog(connection)
    await write(log, Tenant(tenant_ref("tnt_oidc")), "create", Profile(name="O"))
    yield log
    await bounded_close(connection)


async def refused_forgeries(door: Door, provider: ProviderProcess) -> None:
    """Ask with everything that a hostile or confused client may send."""
    token = await provider.token("RS256", claims())
    for changes in (
        {"aud": "https://another"},
        {"aud": None},
        {"iss": "https://another"},
        {"exp": int(time.time()) - 70},
        {"exp": None},
        {"nbf": int(time.time()) + 70},
        {"tid": None},
        {"sub": None},
    ):
        forged = await provider.token("RS256", claims(**changes))
        assert await door.ask(forged) == IS_REFUSED, changes
    tolerated = claims(exp=int(time.time()) - 50, nbf=int(time.time()) + 50)
    assert await door.ask(await provider.token("ES256", tolerated)) == GETS_IN
    assert await door.ask(await provider.token("EdDSA", claims(), kid="RS256-1")) == IS_REFUSED
    mixed = jwt.encode(claims(iss=provider.url), "x" * 32, "HS256", {"kid": "RS256-1"})
    none = jwt.encode(claims(iss=provider.url), "", "none", {"kid": "RS256-1"})
    head, body, _ = token.split(".")
    for forged in (mixed, none, f"{head}.{body}.", f"{head}.{body}.AAAA", await _hmac(provider)):
        assert await door.ask(forged) == IS_REFUSED
    assert await door.ask(token, **{"X-Tenant-Id": "tnt_b"}) == (400, "tenant_mismatch")
    other = await provider.token("RS256", claims(tid="tnt_never"))
    assert await door.ask(other) == (403, "tenant_unknown")


async def _hmac(provider: ProviderProcess) -> str:
    """Return a token signed by HMAC with the public key, the classic confusion."""
    async with aiohttp.ClientSession() as http, http.get(provider.url + "/keys") as answer:
        entry = next(k for k in (await answer.json())["keys"] if k["kid"] == "RS256-1")
    pem = jwt.PyJWK(entry).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signer, encode = jwt.get_algorithm_by_name("HS256"), jwt.utils.base64url_encode
    head = encode(b'{"alg":"HS256","typ":"JWT","kid":"RS256-1"}')
    signed = head + b"." + encode(json.dumps(claims(iss=provider.url)).encode())
    return (signed + b"." + encode(signer.sign(signed, pem))).decode()


async def test_an_issuers_tokens_through_rotation_and_outage(
    own_nats_server: EmbeddedNats, event_log: JetStreamLog, tmp_path: Path
) -> None:
    async with (
        provider_process() as provider,
        gateway(
            own_nats_server.url,
            tmp_path,
            AGENTOS_OIDC_ISSUER=provider.url,
            AGENTOS_OIDC_AUDIENCE=AUDIENCE,
        ) as door,
    ):
        for algorithm in ALGORITHMS:
            assert await door.ask(await provider.token(algorithm, claims())) == GETS_IN
        await refused_forgeries(door, provider)

        await provider.post("/rotate", {"keep": True})
        for algorithm in ALGORITHMS:
            token = await provider.token(algorithm, claims(jti="second"))
            assert await door.ask(token) == GETS_IN, "new keys without a restart"
        unknown = await provider.token("RS256", claims(), kid="never")
        assert await door.ask(unknown) == IS_REFUSED

        signed = [await provider.token(alg, claims(jti="third")) for alg in ALGORITHMS]
        await provider.end()
        for token in signed:
            assert await door.ask(token) == GETS_IN, "known keys hold without the provider"
        assert await door.ask(unknown) == (503, "dependency_unavailable")


async def test_an_api_key_through_its_life_on_a_real_log(
    own_nats_server: EmbeddedNats, event_log: JetStreamLog, tmp_path: Path
) -> None:
    key, tenant = Key(key_ref("tnt_oidc", KEY_ID)), Tenant(tenant_ref("tnt_oidc"))
    tenant.fold(await event_log.read(tenant.ref))
    grant = Grant(principal=SYSTEM_PRINCIPAL, roles=("tenant_service",), scopes=tuple(USER_SCOPES))
    async with gateway(own_nats_server.url, tmp_path) as door:
        assert await door.ask(SECRET_OF_KEY) == IS_REFUSED
        hashed = hash_secret(SECRET_OF_KEY)
        await write(event_log, key, "issue", grant, prefix_of(SECRET_OF_KEY), hashed)
        assert await door.ask(SECRET_OF_KEY) == GETS_IN
        own_nats_server.restart()
        assert await door.ask(SECRET_OF_KEY) in (GETS_IN, (503, "dependency_unavailable"))
        await write(event_log, tenant, "disable", "drain")
        await _soon(door, (403, "tenant_disabled"), within=5)  # the tail finds the broker again
        await write(event_log, tenant, "enable")
        assert await door.ask(SECRET_OF_KEY) in (GETS_IN, (503, "dependency_unavailable"))
        await write(event_log, key, "revoke")
        await _soon(door, IS_REFUSED, within=1)
    usage = JetStreamKeyUsage(await connect(own_nats_server.url, "usage"))
    used = await usage.last_used([key.ref, key_ref("tnt_oidc", "key_other")])
    assert set(used) == {key.ref}
    assert abs(used[key.ref] - time.time() * 1000) < 60_000
    await usage.note(key.ref, 1)
    assert await usage.last_used([key.ref]) == used, "an earlier time changes nothing"
    await bounded_close(usage._client)  # type: ignore[arg-type]  # it is the one made above


async def _soon(door: Door, wanted: tuple[int, str], *, within: float) -> None:
    async with asyncio.timeout(within):
        while await door.ask(SECRET_OF_KEY) != wanted:  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.01)
