"""Positions of followers of the log, in a JetStream key-value bucket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js.api import KeyValueConfig, StorageType
from nats.js.kv import KeyValue as Bucket

from agentos.domain.errors import DependencyUnavailableError

BUCKET: Final = "places"
TIMEOUT_S: Final = 2.0


class JetStreamPlaces:
    """A position by a name without dots. The bucket is made at the first use."""

    def __init__(self, client: Client, *, bucket: str = BUCKET, replicas: int = 1) -> None:
        self._client = client
        self._name = bucket
        self._replicas = replicas
        self._bucket: Bucket | None = None

    async def get(self, name: str) -> int | None:
        """Return the position that was kept last, `None` if none ever was.

        Raises `DependencyUnavailableError`.
        """
        async with _reached():
            bucket = await self._open()
            try:
                entry = await bucket.get(name)
            except nats.js.errors.KeyNotFoundError:
                return None
            return int(entry.value or b"0")

    async def keep(self, name: str, position: int) -> None:
        """Keep a position. Raises `DependencyUnavailableError`."""
        async with _reached():
            bucket = await self._open()
            await bucket.put(name, str(position).encode())

    async def _open(self) -> Bucket:
        if self._bucket is None:
            js = self._client.jetstream(timeout=TIMEOUT_S)
            try:
                self._bucket = await js.key_value(self._name)
            except nats.js.errors.BucketNotFoundError:
                self._bucket = await js.create_key_value(
                    KeyValueConfig(
                        bucket=self._name,
                        history=1,
                        storage=StorageType.FILE,
                        replicas=self._replicas,
                    )
                )
        return self._bucket


@asynccontextmanager
async def _reached() -> AsyncIterator[None]:
    """Turn the driver's errors into the contract's."""
    try:
        async with asyncio.timeout(2 * TIMEOUT_S):
            yield
    except (nats.errors.Error, OSError, TimeoutError) as exc:
        raise DependencyUnavailableError(
            "where a follower of the log stands cannot be reached", dependency="nats"
        ) from exc
