"""Data subjects' keys as a process holds them: unwrapped, for a moment."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from agentos.domain.errors import DependencyUnavailableError, SubjectErasedError
from agentos.domain.ports import KeyState
from agentos.infra.privacy.cipher import KEY_BYTES, Cipher

FRESH_S: Final = 1.0
"""So long a key is used without a look whether it is still there: an erasure's longest reach."""
HELD: Final = 10_000
NO_KEY: Final = "the key of this content is not on this node (see docs/erasure.md)"
GONE: Final = "the content was a data subject's that was erased"


class KeyStore(Protocol):
    """Keeps wrapped keys. Raises `DependencyUnavailableError`."""

    async def read(self, tenant_id: str, key_id: str) -> bytes | None:
        """Return what is kept: `None` for nothing, `b""` for a key that was destroyed."""
        ...

    async def create(self, tenant_id: str, key_id: str, body: bytes) -> bool:
        """Keep a key; `False`, and nothing is changed, where there is or was one."""
        ...

    async def destroy(self, tenant_id: str, key_id: str) -> bool:
        """Overwrite what is kept and let no key be kept there again; whether there was one."""
        ...


class Keyring:
    """`ContentKeys` on a store; what it hands out is fresh by a second."""

    def __init__(
        self,
        store: KeyStore,
        wrapping: Cipher,
        *,
        fresh_s: float = FRESH_S,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._store = store
        self._wrapping = wrapping
        self._fresh_s = fresh_s
        self._now = now or _loop_time
        self._held: OrderedDict[tuple[str, str], tuple[float, Cipher | None]] = OrderedDict()

    async def cipher(self, tenant_id: str, key_id: str) -> Cipher | None:
        """Return the key; `None` where there is none here. `SubjectErasedError`."""
        held = self._held.get((tenant_id, key_id))
        if held is not None and (held[1] is None or self._now() - held[0] < self._fresh_s):
            return self._alive(held[1])
        asked = self._now()
        body = await self._store.read(tenant_id, key_id)
        if body is None:
            return None
        return self._alive(self._hold(tenant_id, key_id, body, asked))

    async def make(self, tenant_id: str, key_id: str) -> None:
        """As `ContentKeys.make`."""
        if await self.cipher(tenant_id, key_id) is not None:
            return
        box = self._wrapping.seal(secrets.token_bytes(KEY_BYTES), _bound(tenant_id, key_id))
        await self._store.create(tenant_id, key_id, box)
        if await self.cipher(tenant_id, key_id) is None:
            raise DependencyUnavailableError("the key was not kept", dependency="nats")

    async def state(self, tenant_id: str, key_id: str) -> KeyState:
        """As `ContentKeys.state`: what the store says, not what is held."""
        body = await self._store.read(tenant_id, key_id)
        if body is None:
            return "none"
        return "alive" if body else "destroyed"

    async def seal(self, tenant_id: str, key_id: str, plain: bytes, where: str) -> bytes:
        """As `ContentKeys.seal`."""
        return (await self._here(tenant_id, key_id)).seal(plain, where.encode())

    async def unseal(self, tenant_id: str, key_id: str, box: bytes, where: str) -> bytes:
        """As `ContentKeys.unseal`."""
        return (await self._here(tenant_id, key_id)).open(box, where.encode())

    async def _here(self, tenant_id: str, key_id: str) -> Cipher:
        cipher = await self.cipher(tenant_id, key_id)
        if cipher is None:
            raise DependencyUnavailableError(NO_KEY, dependency="content_keys")
        return cipher

    async def destroy(self, tenant_id: str, key_id: str) -> bool:
        """As `ContentKeys.destroy`: it waits until no process may hold the key as fresh."""
        was_there = await self._store.destroy(tenant_id, key_id)
        self._hold(tenant_id, key_id, b"", self._now())
        if was_there:
            await asyncio.sleep(self._fresh_s)
        return was_there

    def _hold(self, tenant_id: str, key_id: str, body: bytes, asked: float) -> Cipher | None:
        cipher = None
        if body:
            try:
                cipher = Cipher(self._wrapping.open(body, _bound(tenant_id, key_id)))
            except ValueError as exc:
                raise DependencyUnavailableError(
                    "the content key of this node (AGENTOS_CONTENT_KEY, or content_key in the data "
                    "directory) is not the one that data subjects' keys were wrapped with",
                    dependency="content_key",
                ) from exc
        self._held[tenant_id, key_id] = (asked, cipher)
        self._held.move_to_end((tenant_id, key_id))
        if len(self._held) > HELD:
            self._held.popitem(last=False)
        return cipher

    def _alive(self, cipher: Cipher | None) -> Cipher:
        if cipher is None:
            raise SubjectErasedError(GONE)
        return cipher


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _bound(tenant_id: str, key_id: str) -> bytes:
    return f"{tenant_id}/{key_id}".encode()
