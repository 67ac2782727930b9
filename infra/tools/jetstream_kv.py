"""The tools' key-value map in a JetStream bucket: on disk, one key of the bucket per key."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType
from nats.js.kv import KeyValue as Bucket
from pydantic_core import from_json, to_json

from agentos.domain.errors import DependencyUnavailableError, InvalidRequestError
from agentos.domain.ids import is_named_id

BUCKET: Final = "tool_kv"
REMEMBERED_PUTS: Final = 256
ATTEMPTS: Final = 100
MAX_WAIT_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class _Record:
    """What the bucket holds: the value, the puts that were done, and the last of them's place.

    The done puts stand beside the value, in one message, so that a repeated put is known
    however long ago it was made and whatever was put since.
    """

    value: bytes | None = None
    done: list[str] = field(default_factory=list)
    revision: int = 0


class JetStreamKeyValue:
    """A `KeyValue` in a bucket whose keys are `<tenant>.<digest of the key>`."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @classmethod
    async def open(
        cls, js: JetStreamContext, *, bucket: str = BUCKET, replicas: int = 1
    ) -> "JetStreamKeyValue":
        """Return the map, whose bucket is made if there is none.

        Raises `DependencyUnavailableError` when NATS cannot be reached.
        """
        # Reads go to the leader (not direct), so that one sees every finished put.
        config = KeyValueConfig(
            bucket=bucket, history=1, storage=StorageType.FILE, replicas=replicas, direct=False
        )
        async with _reached():
            try:
                return cls(await js.key_value(bucket))
            except nats.js.errors.BucketNotFoundError:
                return cls(await js.create_key_value(config))

    async def put(self, tenant_id: str, key: str, value: bytes, idempotency_key: str) -> None:
        """Keep `value`, unless a put with this idempotency key was done to this key before."""
        place, mark = _place(tenant_id, key), _digest(idempotency_key)[:16]
        for _ in range(ATTEMPTS):
            async with _reached():
                record = await self._read(place)
                if mark in record.done:
                    return
                done = [*record.done[-REMEMBERED_PUTS + 1 :], mark]
                body = to_json({"key": key, "done": done}) + b"\n" + value
                try:
                    await self._bucket.update(place, body, last=record.revision)
                except nats.js.errors.KeyWrongLastSequenceError:
                    await asyncio.sleep(random.uniform(0, MAX_WAIT_S))  # noqa: S311 - spreads load
                else:
                    return
        raise DependencyUnavailableError("too many writers of one key", dependency="nats")

    async def get(self, tenant_id: str, key: str) -> bytes | None:
        """Return the value that the last finished put kept, `None` if there is none."""
        async with _reached():
            return (await self._read(_place(tenant_id, key))).value

    async def _read(self, place: str) -> _Record:
        try:
            entry = await self._bucket.get(place)
        except nats.js.errors.KeyNotFoundError:
            return _Record()
        head, _, value = (entry.value or b"").partition(b"\n")
        return _Record(value, from_json(head)["done"], entry.revision or 0)


def _place(tenant_id: str, key: str) -> str:
    if not is_named_id(tenant_id):
        raise InvalidRequestError("not a tenant id")
    return f"{tenant_id}.{_digest(key)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@asynccontextmanager
async def _reached() -> AsyncIterator[None]:
    """Turn the driver's errors into the contract's."""
    try:
        yield
    except (nats.errors.Error, OSError) as exc:
        raise DependencyUnavailableError(
            "the key-value store cannot be reached", dependency="nats"
        ) from exc
