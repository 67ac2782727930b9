"""An issuer's keys: which are taken, when they are fetched, and what if they cannot be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from agentos.domain.errors import DependencyUnavailableError
from agentos.infra.oidc import MAX_BYTES, OidcKeys, read_keys

RSA = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048).public_key(), as_dict=True)
WEAK = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)  # noqa: S505 - what is refused
EC = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
EC384 = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)
ED = OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate().public_key(), as_dict=True)


class Site:
    """What a small HTTP server answers."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.asked: list[str] = []
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        await self.gate.wait()
        return web.json_response(self.documents.get(request.path), status=self.status)


@asynccontextmanager
async def serving() -> AsyncIterator[Site]:
    site = Site()
    app = web.Application()
    app.add_routes([web.get("/{path:.*}", site.answer)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield site
    finally:
        site.gate.set()
        await runner.cleanup()


@pytest.mark.parametrize(("jwk", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")])
def test_the_algorithm_is_that_of_the_keys_type(jwk: dict[str, Any], algorithm: str) -> None:
    keys = read_keys({"keys": [jwk | {"kid": "a", "use": "sig"}]})
    assert keys["a"].algorithm == algorithm
    assert keys[None] is keys["a"], "a lone key needs no id"


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "oct", "k": "c2VjcmV0"},
        EC384,
        WEAK,
        RSA | {"use": "enc"},
        RSA | {"alg": "HS256"},
        RSA | {"alg": "RS512"},
        RSA | {"n": "!"},
        {"kty": "RSA"},
        {"kty": ["RSA"]},
        RSA | {"kid": 7},
        "RSA",
    ],
)
def test_other_keys_are_passed_over(jwk: Any) -> None:
    keys = read_keys({"keys": [jwk, ED | {"kid": "good"}]})
    assert set(keys) - {None} == {"good"}


def test_several_keys_are_told_apart_by_their_ids() -> None:
    assert set(read_keys({"keys": [RSA | {"kid": "a"}, EC | {"kid": "b"}]})) == {"a", "b"}


async def test_discovery_leads_to_the_keys_and_an_unknown_id_fetches_them_again() -> None:
    async with serving() as site:
        site.documents = {
            "/.well-known/openid-configuration": {"issuer": site.url, "jwks_uri": f"{site.url}/k"},
            "/k": {"keys": [RSA | {"kid": "1"}]},
        }
        keys = OidcKeys(site.url, pace_s=0.01)
        assert await keys.find("1") is not None
        assert await keys.find("1") is not None
        assert site.asked == ["/.well-known/openid-configuration", "/k"]
        site.documents["/k"] = {"keys": [EC | {"kid": "2"}]}
        found = await keys.find("2")
        assert found is not None
        assert found.algorithm == "ES256"
        assert await keys.find("1") is None, "a key that is not shown any more is withdrawn"


async def test_one_fetch_serves_all_who_wait_for_it() -> None:
    async with serving() as site:
        site.documents = {"/k": {"keys": [RSA | {"kid": "1"}]}}
        keys = OidcKeys("https://issuer", f"{site.url}/k", pace_s=0.01)
        site.gate.clear()
        waiting = [asyncio.create_task(keys.find("1")) for _ in range(50)]
        while not site.asked:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.005)
        site.gate.set()
        assert all(await asyncio.gather(*waiting))
        assert len(site.asked) == 1


async def test_fetches_for_unknown_ids_keep_their_distance() -> None:
    async with serving() as site:
        site.documents = {"/k": {"keys": [RSA | {"kid": "1"}]}}
        keys = OidcKeys("https://issuer", f"{site.url}/k", pace_s=0.2)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(3):
            assert await asyncio.gather(*(keys.find("x") for _ in range(20))) == [None] * 20
        assert len(site.asked) == 3
        assert loop.time() - began >= 0.4


async def test_known_keys_hold_while_the_issuer_is_down() -> None:
    async with serving() as site:
        site.documents = {"/k": {"keys": [RSA | {"kid": "1"}]}}
        keys = OidcKeys("https://issuer", f"{site.url}/k", pace_s=0.01, ttl_s=0.05, retry_s=0.05)
        assert await keys.find("1") is not None
        site.status = 500
        running = asyncio.create_task(keys.run())
        while len(site.asked) < 4:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        assert await keys.find("1") is not None
        with pytest.raises(DependencyUnavailableError) as caught:
            await keys.find("2")
        assert caught.value.details == {"dependency": "oidc"}
        site.status, site.documents = 200, {"/k": {"keys": [RSA | {"kid": "2"}]}}
        assert await keys.find("2") is not None, "it is asked again as soon as it answers"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    "document",
    [None, [], {}, {"keys": {}}, {"keys": [], "padding": "x" * MAX_BYTES}],
)
async def test_an_answer_that_is_no_key_set_is_an_issuer_that_is_down(document: Any) -> None:
    async with serving() as site:
        site.documents = {"/k": document}
        with pytest.raises(DependencyUnavailableError):
            await OidcKeys("https://issuer", f"{site.url}/k").find("1")


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://another", "jwks_uri": "https://another/k"},
        {"issuer": "<own>"},
        {"issuer": "<own>", "jwks_uri": "file:///etc/passwd"},
    ],
)
async def test_a_configuration_that_does_not_fit_is_not_followed(document: dict[str, str]) -> None:
    async with serving() as site:
        own = {k: site.url if v == "<own>" else v for k, v in document.items()}
        site.documents = {"/.well-known/openid-configuration": own}
        with pytest.raises(DependencyUnavailableError):
            await OidcKeys(site.url).find("1")
        assert len(site.asked) == 1


async def test_a_slow_issuer_is_given_up() -> None:
    async with serving() as site:
        site.gate.clear()
        keys = OidcKeys("https://issuer", f"{site.url}/k", fetch_s=0.1)
        with pytest.raises(DependencyUnavailableError, match="TimeoutError"):
            await keys.find("1")
