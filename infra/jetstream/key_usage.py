"""When API keys were last used, in a JetStream key-value bucket: a note, not an event."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js.api import KeyValueConfig, StorageType
from nats.js.kv import KeyValue as Bucket

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.subjects import StreamRef

BUCKET: Final = "key_usage"
TIMEOUT_S: Final = 2.0
AT_ONCE: Final = 16


class JetStreamKeyUsage:
    """Times by `<tenant>.<key>`. The bucket is made at the first use; the client is shared."""

    def __init__(self, client: Client, *, bucket: str = BUCKET, replicas: int = 1) -> None:
        self._client = client
        self._name = bucket
        self._replicas = replicas
        self._bucket: Bucket | None = None

    async def note(self, key: StreamRef, at_ms: int) -> None:
        """Keep that a key was used then, unless a later time is kept already.

        Two processes that write at once may keep the earlier of their times until they write
        again. Raises `DependencyUnavailableError`.
        """
        async with _reached():
            bucket = await self._open()
            known = await _read(bucket, key)
            if known is None or known < at_ms:
                await bucket.put(_place(key), str(at_ms).encode())

    async def last_used(self, keys: Sequence[StreamRef]) -> dict[StreamRef, int]:
        """Return when (epoch ms) those keys were last used that ever were.

        Raises `DependencyUnavailableError`.
        """
        room = asyncio.Semaphore(AT_ONCE)

        async def read(bucket: Bucket, key: StreamRef) -> int | None:
            async with room:
                return await _read(bucket, key)

        async with _reached():
            bucket = await self._open()
            times = await asyncio.gather(*(read(bucket, key) for key in keys))
        return {key: at for key, at in zip(keys, times, strict=True) if at is not None}

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


async def _read(bucket: Bucket, key: StreamRef) -> int | None:
    try:
        entry = await bucket.get(_place(key))
    except nats.js.errors.KeyNotFoundError:
        return None
    return int(entry.value or b"0")


def _place(key: StreamRef) -> str:
    return f"{key.tenant_id}.{key.aggregate_id}"


@asynccontextmanager
async def _reached() -> AsyncIterator[None]:
    """Turn the driver's errors into the contract's."""
    try:
        async with asyncio.timeout(2 * TIMEOUT_S):
            yield
    except (nats.errors.Error, OSError, TimeoutError) as exc:
        raise DependencyUnavailableError(
            "when keys were used cannot be reached", dependency="nats"
        ) from exc
