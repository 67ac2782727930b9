"""Who may come in through a peer: tokens of one use, certificates, tenants, rights, rates."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from agentos.infra.federation.certs import make_authority, make_node_certificate
from agentos.infra.federation.keys import ALGORITHM, KeyRing, key_id
from agentos.infra.federation.peer_keys import PACE_S
from agentos.infra.federation.tls import door_context
from agentos.infra.settings import Settings
from tests.federation.node import AGENT, FedNode, reserve, two_nodes, urls_of
from tests.federation.peering import MemoryKeys, entry
from tests.gateways.conftest import bearer

B = {"stack_id": "stk_b"}
RUN = {"input": {"type": "text", "text": "hi"}}


class Keyed:
    """Two nodes that know each other's keys, without certificates."""

    def __init__(self) -> None:
        self.a_keys, self.b_keys = MemoryKeys(), MemoryKeys()

    async def open(self, **of_a: Any) -> tuple[FedNode, FedNode]:
        """Open A and B; `of_a` is what B notes of A."""
        a = FedNode("stk_a", signer=self.a_keys, keep={"allow_dev_headers": False})
        b = FedNode("stk_b", signer=self.b_keys, keep={"allow_dev_headers": False})
        a.door.ports, b.door.ports = await reserve(), await reserve()
        a_urls, b_urls = urls_of(a.door.ports), urls_of(b.door.ports)
        path = "/v1/federation/jwks.json"
        await a.open([entry("stk_b", b_urls, jwks_url=b_urls[2] + path)])
        await b.open([entry("stk_a", a_urls, jwks_url=a_urls[2] + path, **of_a)])
        return a, b


def token(keys: MemoryKeys, **changes: Any) -> dict[str, str]:
    """Return the header with a token of stack A for stack B; a claim of `None` is left out."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": "stk_a",
        "aud": "stk_b",
        "sub": "usr_a",
        "tenant_id": "tnt_a",
        "scopes": ["runs:forward", "runs:create", "tools:invoke"],
        "iat": now,
        "exp": now + 60,
        "jti": f"jti_{time.time_ns()}",
        **changes,
    }
    kept = {name: value for name, value in claims.items() if value is not None}
    return {"Authorization": f"Bearer {keys.sign(kept)}"}


async def create(node: FedNode, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Create a run as a peer does."""
    return await node.call("POST", f"/v1/agents/{AGENT}/runs", door=0, headers=headers, json=RUN)


async def test_with_keys_identities_travel_as_tokens() -> None:
    a, b = await Keyed().open()
    try:
        status, body = await a.forward(B)
        assert status == 200, body
        run_id = body["forwarded"]["remote_run_id"]
        created = (await b.handled.run(run_id)).created
        assert created.principal.principal_id == "usr_a"
        assert created.origin_stack_id == "stk_a"
        await b.end_all()
        await a.wait_copied(run_id, 3)
        assert (await a.peers_now())["stk_b"]["security"] == "tokens"
    finally:
        await a.close()
        await b.close()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"aud": "stk_c"}, "another audience"),
    ({"aud": None}, "no audience"),
    ({"exp": int(time.time()) - 3600, "iat": int(time.time()) - 3700}, "expired"),
    ({"exp": int(time.time()) + 86_400}, "lives too long"),
    ({"iat": int(time.time()) - 100}, "older than this process"),
    ({"jti": None}, "no id"),
    ({"tenant_id": None}, "no tenant"),
    ({"tenant_id": "tnt_*"}, "a tenant that is none"),
    ({"sub": None}, "no principal"),
    ({"iss": "stk_stranger"}, "a stranger"),
]


@pytest.mark.parametrize(("changes", "why"), WRONG, ids=[why for _, why in WRONG])
async def test_a_token_that_does_not_verify(changes: dict[str, Any], why: str) -> None:
    keyed = Keyed()
    a, b = await keyed.open()
    try:
        status, body = await create(b, token(keyed.a_keys, **changes))
        assert (status, body["error"]["code"]) == (401, "unauthorized"), why
        assert (await create(b, token(keyed.a_keys)))[0] == 201
        assert len(await b.runs()) == 1
    finally:
        await a.close()
        await b.close()


async def test_tokens_of_other_keys_used_twice_and_after_a_rotation() -> None:
    keyed = Keyed()
    a, b = await keyed.open()
    try:
        assert (await create(b, token(MemoryKeys())))[0] == 401
        once = token(keyed.a_keys)
        assert (await create(b, once))[0] == 201
        status, body = await create(b, once)
        assert (status, body["error"]["code"]) == (401, "unauthorized")
        assert "used before" in body["error"]["message"]
        old = token(keyed.a_keys)
        keyed.a_keys.rotate()
        assert (await create(b, old))[0] == 201  # a token on its way
        await asyncio.sleep(PACE_S + 0.05)  # a peer's keys are asked for again from then on
        assert (await create(b, token(keyed.a_keys)))[0] == 201
        shared = jwt.encode({"iss": "stk_a", "aud": "stk_b"}, "s" * 32, "HS256")
        assert (await create(b, {"Authorization": f"Bearer {shared}"}))[0] == 401
        assert (await create(b, {"Authorization": f"Bearer {shared[:-9]}"}))[0] == 401
    finally:
        await a.close()
        await b.close()


async def test_a_peer_does_what_runs_forward_stands_for_and_no_more() -> None:
    keyed = Keyed()
    a, b = await keyed.open()
    try:
        _, made = await create(b, token(keyed.a_keys, scopes=["runs:forward"]))
        run_id = made["run"]["run_id"]
        _, own = await b.call("POST", "/v1/agents/agt_a/runs", door=0, json=RUN)
        local = own["run"]["run_id"]
        scopes = {"scopes": ["runs:forward", "agents:read", "tenants:admin", "events:read"]}

        async def ask(method: str, path: str, door: int = 0) -> tuple[int, str]:
            headers = token(keyed.a_keys, **scopes)
            status, body = await b.call(method, path, door=door, headers=headers)
            return status, body.get("error", {}).get("code", "")

        assert await ask("GET", f"/v1/runs/{run_id}") == (200, "")
        assert await ask("GET", f"/v1/runs/{local}") == (404, "not_found")
        assert await ask("POST", f"/v1/runs/{local}:cancel") == (404, "not_found")
        assert await ask("GET", f"/v1/runs/{local}/events") == (404, "not_found")
        assert await ask("GET", "/v1/runs") == (403, "forbidden")
        assert await ask("GET", "/v1/events") == (403, "forbidden")
        assert await ask("GET", "/v1/agents") == (403, "forbidden")
        assert await ask("GET", "/v1/admin/tenants") == (403, "forbidden")
        assert await ask("GET", f"/v1/federation/runs/{run_id}/events", 2) == (403, "forbidden")
        assert await ask("POST", f"/v1/runs/{run_id}:cancel") == (200, "")
        assert (await create(b, token(keyed.a_keys, scopes=["models:invoke"])))[0] == 403
        assert (await create(b, token(keyed.a_keys, scopes=None)))[0] == 403
        node = token(keyed.a_keys, tenant_id="tnt_node", scopes=["federation:peer", "runs:forward"])
        assert (await create(b, node))[0] == 403
    finally:
        await a.close()
        await b.close()


async def test_the_receivers_own_tenants_rights_and_rates_count() -> None:
    keyed = Keyed()
    a, b = await keyed.open(
        tenants=["tnt_a", "tnt_off", "tnt_never"], limits={"runs_per_minute": 3}
    )
    try:
        status, body = await create(b, token(keyed.a_keys, tenant_id="tnt_never"))
        assert (status, body["error"]["code"]) == (403, "tenant_unknown")
        await b.handled.tenant("tnt_off")
        await b.door.change_tenant("tnt_off", "disable", "drain")
        status, body = await create(b, token(keyed.a_keys, tenant_id="tnt_off"))
        assert (status, body["error"]["code"]) == (403, "tenant_disabled")
        await b.handled.tenant("tnt_c")
        status, body = await create(b, token(keyed.a_keys, tenant_id="tnt_c"))
        assert (status, body["error"]["code"]) == (403, "forbidden")
        for _ in range(3):
            assert (await create(b, token(keyed.a_keys)))[0] == 201
        status, body = await create(b, token(keyed.a_keys))
        assert (status, body["error"]["code"]) == (429, "rate_limited")
        assert body["error"]["details"]["retry_after_ms"] > 0
        here = {"target_selector": {"stack_id": "stk_b"}, "run_create": RUN | {"agent_id": AGENT}}
        path = "/v1/federation/runs:forward"
        status, body = await b.call("POST", path, headers=token(keyed.a_keys), json=here)
        assert (status, body["error"]["code"]) == (429, "rate_limited")
    finally:
        await a.close()
        await b.close()


async def test_over_quota_over_there() -> None:
    async with two_nodes() as (a, b):
        await b.handled.tenant("tnt_small", max_concurrent_runs=1)
        await a.handled.tenant("tnt_small")
        user = bearer(tenant_id="tnt_small")
        assert (await a.forward(B, headers=user))[0] == 200
        status, body = await a.forward(B, headers=user)
        assert (status, body["error"]["code"]) == (429, "quota_exceeded")
        assert body["error"]["details"]["stack_id"] == "stk_b"


async def test_a_peer_without_the_right_to_forward() -> None:
    keyed = Keyed()
    a, b = await keyed.open(rights=["events:ingest"])
    try:
        status, body = await create(b, token(keyed.a_keys))
        assert (status, body["error"]["code"]) == (403, "forbidden")
        status, body = await a.forward(B)
        assert (status, body["error"]["code"]) == (502, "forward_failed")
    finally:
        await a.close()
        await b.close()


class Certified:
    """Two nodes with certificates of one authority."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        make_authority(directory)

    def settings(self, name: str, *, valid: timedelta = timedelta(days=1)) -> Mapping[str, str]:
        """Return the settings of a node that shows a certificate of that name."""
        certificate, key = make_node_certificate(self.directory, name, valid=valid)
        return {
            "AGENTOS_FED_CA_CERT": str(self.directory / "ca.pem"),
            "AGENTOS_FED_CERT": str(certificate),
            "AGENTOS_FED_KEY": str(key),
            "AGENTOS_FED_REQUIRE_MTLS": "1",
        }

    async def open(
        self, a_cert: Mapping[str, str], b_cert: Mapping[str, str]
    ) -> tuple[FedNode, FedNode]:
        """Open A and B with these certificates."""
        nodes = []
        for stack_id, cert in (("stk_a", a_cert), ("stk_b", b_cert)):
            tls = door_context(Settings.load(cert))
            keep = {"allow_dev_headers": False, "tls": tls}
            nodes.append(FedNode(stack_id, keep=keep, settings=cert, require_mtls=True))
        a, b = nodes
        a.door.ports, b.door.ports = await reserve(), await reserve()
        await a.open([entry("stk_b", urls_of(b.door.ports, tls=True))])
        await b.open([entry("stk_a", urls_of(a.door.ports, tls=True))])
        return a, b


async def test_mtls_from_end_to_end(tmp_path: Path) -> None:
    certified = Certified(tmp_path)
    a_cert, b_cert = certified.settings("stk_a"), certified.settings("stk_b")
    a, b = await certified.open(a_cert, b_cert)
    try:
        tls = peer_side(a_cert)
        status, body = await forward_with(a, tls)
        assert status == 200, body
        forwarded = body["forwarded"]
        assert forwarded["remote_events_url"].startswith("https://")
        await b.end_all()
        await a.wait_copied(forwarded["remote_run_id"], 3)
        assert await a.copied(forwarded["remote_run_id"]) == await b.lines(
            forwarded["remote_run_id"]
        )
        # the plain orchestrator door takes no peer, and the other door nobody without certificate
        federation = a.door.gateway._federation
        assert federation is not None
        headers = federation.credentials.of_caller(b.entry(), _auth(), "")
        status, body = await create(b, headers)
        assert (status, body["error"]["code"]) == (403, "forbidden")
        naked = ssl.create_default_context(cafile=a_cert["AGENTOS_FED_CA_CERT"])
        naked.check_hostname = False
        async with aiohttp.ClientSession() as http:
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
                async with http.get(b.federation + "/healthz", ssl=naked) as answer:
                    await answer.read()
    finally:
        await a.close()
        await b.close()


def _auth() -> Any:
    from agentos.domain.auth import system_auth

    return system_auth("tnt_a")


def peer_side(cert: Mapping[str, str]) -> ssl.SSLContext:
    """Return how a node's own programs call its door."""
    from agentos.infra.federation.tls import own_context

    context = own_context(Settings.load(cert))
    assert context is not None
    return context


async def forward_with(node: FedNode, tls: ssl.SSLContext) -> tuple[int, dict[str, Any]]:
    """Forward a run over a door with TLS."""
    run = {"agent_id": AGENT, **RUN}
    body = {"forward": {"target_selector": B, "run_request": run}}
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            node.federation + "/v1/federation/runs:forward", json=body, headers=bearer(), ssl=tls
        ) as answer,
    ):
        return answer.status, await answer.json()


@pytest.mark.parametrize("how", ["another name", "expired", "another authority"])
async def test_a_peer_whose_certificate_is_wrong_gets_no_run(tmp_path: Path, how: str) -> None:
    certified = Certified(tmp_path / "one")
    a_cert = certified.settings("stk_a")
    if how == "another name":
        b_cert = certified.settings("stk_c")
    elif how == "expired":
        b_cert = certified.settings("stk_b", valid=timedelta(minutes=-1))
    else:
        other = Certified(tmp_path / "two")
        b_cert = dict(other.settings("stk_b")) | {
            "AGENTOS_FED_CA_CERT": a_cert["AGENTOS_FED_CA_CERT"]
        }
    a, b = await certified.open(a_cert, b_cert)
    try:
        status, body = await forward_with(a, peer_side(a_cert))
        assert (status, body["error"]["code"]) == (502, "forward_failed")
        assert await b.runs() == []
    finally:
        await a.close()
        await b.close()


async def test_a_certificate_of_one_peer_and_a_token_of_another(tmp_path: Path) -> None:
    certified = Certified(tmp_path)
    a_cert, b_cert = certified.settings("stk_a"), certified.settings("stk_b")
    a, b = await certified.open(a_cert, b_cert)
    try:
        mallory = peer_side(certified.settings("stk_m"))
        federation = a.door.gateway._federation
        assert federation is not None
        headers = federation.credentials.of_caller(b.entry(), _auth(), "")
        url = f"{b.federation}/v1/agents/{AGENT}/runs"
        async with aiohttp.ClientSession() as http:
            for sent in (headers, bearer()):
                async with http.post(url, json=RUN, headers=sent, ssl=mallory) as answer:
                    body = await answer.json()
                    assert (answer.status, body["error"]["code"]) == (403, "forbidden")
        assert await b.runs() == []
    finally:
        await a.close()
        await b.close()


def test_keys_rotate_on_disk(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    ring.ensure()
    first = ring.key_set()["keys"][0]["kid"]
    old = ring.sign({"a": 1})
    second = KeyRing(tmp_path / "keys").rotate()
    ring._looked = 0.0
    assert [key["kid"] for key in ring.key_set()["keys"]] == [first, second]
    assert jwt.get_unverified_header(ring.sign({}))["kid"] == second
    assert jwt.get_unverified_header(old)["kid"] == first
    for _ in range(3):
        ring.rotate()
    assert len(ring.key_set()["keys"]) == 3
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()}
    assert modes == {0o600}
    assert not list((tmp_path / "keys").glob("*.new"))
    assert (ALGORITHM, len(key_id(MemoryKeys().keys[0]))) == ("EdDSA", 43)
