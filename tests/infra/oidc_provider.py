"""A small OpenID provider as a process of its own: real keys, rotation, tokens on request.

`python -m tests.infra.oidc_provider` prints its base URL, the issuer, in its first line.
`POST /token` signs `{"alg", "claims", "key"?}`; `POST /rotate` makes new keys, and with
`{"keep": true}` shows the old ones too.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm


class Provider:
    """The provider's keys by algorithm, and the key set that it shows."""

    def __init__(self) -> None:
        self.generation = 0
        self.keys: dict[str, Any] = {}
        self.shown: list[dict[str, Any]] = []
        self.asked = 0
        self.rotate(keep=False)

    def rotate(self, *, keep: bool) -> None:
        """Make new keys of all three kinds."""
        self.generation += 1
        self.keys = {
            "RS256": rsa.generate_private_key(65537, 2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        }
        makers: dict[str, Any] = {
            "RS256": RSAAlgorithm.to_jwk,
            "ES256": ECAlgorithm.to_jwk,
            "EdDSA": OKPAlgorithm.to_jwk,
        }
        new = [
            makers[alg](key.public_key(), as_dict=True) | {"kid": self.kid(alg), "use": "sig"}
            for alg, key in self.keys.items()
        ]
        self.shown = [*(self.shown if keep else []), *new]

    def kid(self, alg: str) -> str:
        """Return the id of the present key of an algorithm."""
        return f"{alg}-{self.generation}"

    async def show(self, request: web.Request) -> web.Response:
        """Answer the key set."""
        self.asked += 1
        return web.json_response({"keys": self.shown})

    async def describe(self, request: web.Request) -> web.Response:
        """Answer the discovery document."""
        issuer = f"http://{request.host}"
        return web.json_response({"issuer": issuer, "jwks_uri": f"{issuer}/keys"})

    async def sign(self, request: web.Request) -> web.Response:
        """Sign a token."""
        body = await request.json()
        alg = body["alg"]
        headers = {"kid": self.kid(alg)} | body.get("headers", {})
        return web.json_response(
            {"token": jwt.encode(body["claims"], self.keys[alg], alg, headers)}
        )

    async def turn(self, request: web.Request) -> web.Response:
        """Rotate."""
        self.rotate(keep=(await request.json())["keep"])
        return web.json_response({"asked": self.asked})


async def serve() -> None:
    """Serve on a free port until the process is ended."""
    provider = Provider()
    app = web.Application()
    app.add_routes(
        [
            web.get("/.well-known/openid-configuration", provider.describe),
            web.get("/keys", provider.show),
            web.post("/token", provider.sign),
            web.post("/rotate", provider.turn),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


class ProviderProcess:
    """The provider as a test sees it."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Call one of its own routes."""
        async with aiohttp.ClientSession() as http, http.post(self.url + path, json=body) as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def token(self, alg: str, claims: dict[str, Any], **headers: str) -> str:
        """Return a token with these claims of this issuer."""
        body = {"alg": alg, "claims": {"iss": self.url, **claims}, "headers": headers}
        return str((await self.post("/token", body))["token"])

    async def end(self) -> None:
        """Kill it."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def provider_process() -> AsyncIterator[ProviderProcess]:
    """A running provider."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.infra.oidc_provider", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            url = (await process.stdout.readline()).decode().strip()
        yield ProviderProcess(process, url)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(serve())
