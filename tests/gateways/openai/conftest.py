"""The OpenAI-compatible doors on a free port, asked by the official client."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI, OpenAI

from agentos.gateways.http.denials import Denials
from agentos.gateways.http.followed import Followed
from agentos.gateways.http.identity import LocalIdentity
from agentos.gateways.http.metrics import Metrics
from agentos.gateways.http.middleware import Doorway
from agentos.gateways.http.routing import Gate, guarded_app
from agentos.gateways.http.server import listen, make_server
from agentos.gateways.http.sse import Streams
from agentos.gateways.http.tenants import Accounts
from agentos.gateways.http.throttle import Throttle
from agentos.gateways.model_policy.openai.routes import add_openai_routes
from agentos.gateways.model_policy.parts import Parts
from agentos.gateways.model_policy.policies import Policies
from agentos.infra.clock import SystemIds
from agentos.infra.memory.bus import MemoryBus
from agentos.infra.memory.log import MemoryLog
from tests.gateways.conftest import SECRET, EveryTenant, token
from tests.gateways.openai.pipeline import EchoPipeline


class ModelDoor:
    """A model door under test, whose pipeline is in memory."""

    def __init__(self, pipeline: EchoPipeline) -> None:
        log, bus = MemoryLog(), MemoryBus({})
        self.accounts = accounts = Accounts(log)
        accounts.active = EveryTenant()
        self.metrics = Metrics()
        self.pipeline = pipeline
        throttle = Throttle(rate=1000, burst=1000)
        identity = LocalIdentity(
            SECRET, allow_dev_headers=False, accounts=accounts, throttle=throttle
        )
        gate = Gate(identity, accounts, self.metrics, Denials(bus))
        known = Followed(log, ())
        streams = Streams(self.metrics.sse_streams, None, accounts.refusal)
        accounts.on_closed.append(streams.cut_refused)
        parts = Parts(
            bus=bus,
            log=log,
            known=known,
            policies=Policies(known),
            pipeline=pipeline,
            streams=streams,
        )
        app = guarded_app("models", gate, parts)
        add_openai_routes(app)
        doorway = Doorway(
            app,
            service="model-policy",
            new_id=SystemIds(),
            metrics=self.metrics,
            max_body_bytes=1024 * 1024,
        )
        self.server = make_server(doorway)

    async def start(self) -> None:
        """Open the door."""
        held = listen("127.0.0.1", 0)
        self.port = held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.task = asyncio.create_task(self.server.serve(sockets=[held]))
        self.http = aiohttp.ClientSession(self.url)
        self.key = token()

    async def close(self) -> None:
        """Close the door."""
        await self.http.close()
        self.server.should_exit = True
        async with asyncio.timeout(20):
            await self.task

    def client(self, **options: Any) -> AsyncOpenAI:
        """Return the official client, told where we are and who it is."""
        options = {"api_key": self.key, "max_retries": 0, **options}
        return AsyncOpenAI(base_url=f"{self.url}/v1", **options)

    def sync_client(self, **options: Any) -> OpenAI:
        """Return the official client for threads."""
        options = {"api_key": self.key, "max_retries": 0, **options}
        return OpenAI(base_url=f"{self.url}/v1", **options)

    async def post(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Post `body` as JSON, or as it is when it is bytes; return status, body, headers."""
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        sent = {"Authorization": f"Bearer {self.key}"} if headers is None else headers
        async with self.http.post(path, data=data, headers=sent) as response:
            return response.status, json.loads(await response.read()), response.headers


@pytest.fixture
async def models() -> AsyncIterator[ModelDoor]:
    """A model door that answers from memory."""
    opened = ModelDoor(EchoPipeline())
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
async def openai(models: ModelDoor) -> AsyncIterator[AsyncOpenAI]:
    """The official client of that door."""
    async with models.client() as client:
        yield client
