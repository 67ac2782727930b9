"""A request id answers once: the first answer is kept, a repeat gets it and is not billed.

Of two that come at once one makes the call and the other waits, in any number of processes. The
maker holds a short lease that it renews; when its process dies, the lease runs out and another
takes over.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import orjson

from agentos.domain.errors import (
    AgentOSError,
    ConflictError,
    DependencyUnavailableError,
    SubjectErasedError,
    TimedOutError,
)
from agentos.domain.ports import NewId
from agentos.gateways.model_policy.calls import Caller
from agentos.gateways.model_policy.keeping import Keeping

LEASE_S: Final = 10
RENEW_S: Final = 4.0
FAILED_TTL_S: Final = 60
RACES: Final = 5
WAIT_S: Final = 180.0
POLL_S: Final = (0.02, 0.05, 0.1, 0.25)
MAX_ANSWER_BYTES: Final = 256 * 1024
Body = dict[str, Any]
log = logging.getLogger(__name__)


class AnswerStore(Protocol):
    """Keeps one body a request for a while. Raises `DependencyUnavailableError`."""

    async def read(self, tenant_id: str, digest: str) -> tuple[int, bytes] | None:
        """Return revision and body of what is kept, `None` if nothing is."""
        ...

    async def write(
        self, tenant_id: str, digest: str, body: bytes, *, expected: int, ttl_s: int
    ) -> int | None:
        """Replace revision `expected` (0: nothing); `None` when another writer was first."""
        ...


class Idempotency:
    """Makes a call once per tenant, principal and request id. Times are seconds."""

    def __init__(
        self,
        store: AnswerStore,
        new_id: NewId,
        ttl_s: int,
        wait_s: float = WAIT_S,
        keeping: Keeping | None = None,
    ) -> None:
        self._store = store
        self._keeping = keeping
        self._new_id = new_id
        self._ttl_s = ttl_s
        self._wait_s = wait_s

    async def once(
        self, caller: Caller, request_id: str, call: Callable[[], Awaitable[Body]]
    ) -> tuple[Body, bool]:
        """Return what `call` answered, now or earlier, and whether it was earlier.

        A first attempt of the runtime is not looked up: its run has one executor at a time,
        which says itself when it asks again. Raises what `call` raises, which is not kept;
        `ConflictError` for another body under the same id, and for an answer that was too
        large to be kept; `TimedOutError` when the first is in flight for too long.
        """
        key_id = "" if self._keeping is None else await self._keeping.key_of(caller)
        slot = _Slot(self._store, caller, request_id, self._new_id, self._keeping, key_id)
        if caller.is_first_attempt:
            answer = await call()
            await self._keep(slot, answer)
            return answer, False
        try:
            async with asyncio.timeout(self._wait_s):
                if (kept := await slot.take()) is not None:
                    return kept, True
        except TimeoutError as exc:
            raise TimedOutError("the first request of this id is still in flight") from exc
        return await self._make(slot, call), False

    async def _make(self, slot: "_Slot", call: Callable[[], Awaitable[Body]]) -> Body:
        try:
            async with slot.renewed():
                answer = await call()
        except BaseException:
            # Shielded: a client that leaves must not leave its lease behind.
            await asyncio.shield(slot.fail())
            raise
        # Shielded: the call is charged, so its answer is there for whoever asks again.
        await asyncio.shield(self._keep(slot, answer))
        return answer

    async def _keep(self, slot: "_Slot", answer: Body) -> None:
        try:
            await slot.finish(answer, self._ttl_s)
        except (DependencyUnavailableError, SubjectErasedError) as error:
            log.warning("an answer was not kept, a repeat would be made again: %s", error)


class _Slot:
    """One request's place in the store, as this process sees it."""

    def __init__(
        self,
        store: AnswerStore,
        caller: Caller,
        request_id: str,
        new_id: NewId,
        keeping: Keeping | None = None,
        key_id: str = "",
    ) -> None:
        self._store = store
        self._keeping = keeping
        self._key_id = key_id
        self._tenant_id = caller.auth.tenant_id
        self._digest = digest_of(caller.auth.principal.principal_id, request_id)
        self._fingerprint = caller.fingerprint
        self._new_id = new_id
        self._owner = new_id("own")
        self._revision = 0

    async def take(self) -> Body | None:
        """Return the kept answer, or `None` once this process holds the lease."""
        turn = 0
        while not await self._begin():
            found = await self._store.read(self._tenant_id, self._digest)
            if found is None:
                self._revision = 0
                continue
            revision, raw = found
            kept: Body = orjson.loads(raw)
            if kept["fingerprint"] != self._fingerprint:
                raise ConflictError("the request id was used for another body")
            match kept["state"]:
                case "done":
                    answer: Body = kept["answer"]
                    return await self._unsealed(answer)
                case "too_large":
                    raise ConflictError("the answer was too large to keep", usage=kept["usage"])
                case "failed":
                    self._revision = revision
                    continue
            self._revision = 0
            await asyncio.sleep(POLL_S[min(turn, len(POLL_S) - 1)])
            turn += 1
        return None

    async def _begin(self) -> bool:
        revision = await self._put({"state": "begun"}, LEASE_S)
        if revision is None:
            return False
        self._revision = revision
        return True

    @asynccontextmanager
    async def renewed(self) -> AsyncIterator[None]:
        """Hold the lease for as long as the block takes."""
        renewing = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                if not await self._hold({"state": "begun"}, LEASE_S):
                    return  # another has it: this call goes on, its answer is not kept
            except DependencyUnavailableError as error:
                log.warning("a lease was not renewed: %s", error)

    async def finish(self, answer: Body, ttl_s: int) -> None:
        """Keep the answer, unless another has taken the place meanwhile."""
        if len(orjson.dumps(answer)) > MAX_ANSWER_BYTES:
            content: Body = {"state": "too_large", "usage": answer.get("usage")}
        else:
            content = {"state": "done", "answer": await self._sealed(answer)}
        if not await self._hold(content, ttl_s):
            log.warning("an answer was not kept: its lease had run out, and another has the place")

    async def _sealed(self, answer: Body) -> Body:
        if self._keeping is None:
            return answer
        return await self._keeping.seal(self._tenant_id, self._key_id, answer, self._digest)

    async def _unsealed(self, kept: Body) -> Body:
        if self._keeping is None:
            return kept
        return await self._keeping.unseal(self._tenant_id, kept, self._digest)

    async def fail(self) -> None:
        """Let the next who asks make the call anew, at once."""
        try:
            await self._hold({"state": "failed"}, FAILED_TTL_S)
        except AgentOSError as error:
            log.warning("a lease was not given back and runs out by itself: %s", error)

    async def _hold(self, content: Body, ttl_s: int) -> bool:
        """Write what this process has to say of its place; false when another has it.

        A write that was broken off, or whose answer was lost, may be there: then its revision,
        which nobody heard, is the one to go on from.
        """
        for _ in range(RACES):
            revision = await self._put(content, ttl_s)
            if revision is not None:
                self._revision = revision
                return True
            found = await self._store.read(self._tenant_id, self._digest)
            if found is not None and orjson.loads(found[1]).get("owner") != self._owner:
                return False
            self._revision = 0 if found is None else found[0]
        return False

    async def _put(self, content: Body, ttl_s: int) -> int | None:
        body = {
            "fingerprint": self._fingerprint,
            "owner": self._owner,
            "nonce": self._new_id("cmt"),
            **content,
        }
        return await self._store.write(
            self._tenant_id,
            self._digest,
            orjson.dumps(body),
            expected=self._revision,
            ttl_s=ttl_s,
        )


def digest_of(principal_id: str, request_id: str) -> str:
    """Return the place of a request in its tenant: ids are free text, subjects are not."""
    return hashlib.sha256(f"{principal_id}\0{request_id}".encode()).hexdigest()[:40]
