"""The bodies of direct calls, sealed and kept beside the answers, for tenants that want it."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from pydantic_core import to_json

from agentos.domain.errors import AgentOSError
from agentos.domain.policy.texts import Field
from agentos.domain.ports import ContentKeys, EmbedRequest, ModelAnswer, ModelRequest
from agentos.domain.privacy.bodies import BodyStore, CallBody, body_digest, body_place
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.gateways.http.followed import Followed
from agentos.gateways.http.metrics import Metrics
from agentos.gateways.model_policy.calls import Caller
from agentos.gateways.model_policy.content import (
    call_fields,
    chat_fields,
    embed_fields,
    tool_output_fields,
)
from agentos.gateways.model_policy.keeping import Keeping

MOST: Final = 2000
AT_ONCE: Final = 16
STOP_S: Final = 5.0
log = logging.getLogger(__name__)


class _Said(NamedTuple):
    """A call that ended: nothing of it is copied before it is its turn."""

    caller: Caller
    request: ModelRequest | EmbedRequest
    answer: ModelAnswer | None


class Bodies:
    """Notes a call's texts at once and keeps them beside; never delays an answer.

    At most `most` calls wait. What comes beyond, and what cannot be kept, is lost: counted by
    `agentos_model_bodies_lost_total` and logged.
    """

    def __init__(
        self,
        store: BodyStore,
        keys: ContentKeys,
        keeping: Keeping,
        known: Followed,
        metrics: Metrics,
        *,
        most: int = MOST,
    ) -> None:
        self._store = store
        self._keys = keys
        self._keeping = keeping
        self._known = known
        self._metrics = metrics
        self._most = most
        self._waiting: deque[_Said] = deque()
        self._due = asyncio.Event()

    def note(
        self, caller: Caller, request: ModelRequest | EmbedRequest, answer: ModelAnswer | None
    ) -> None:
        """Take a direct call that ended, if its tenant keeps bodies; never waits."""
        tenant_id = caller.auth.tenant_id
        tenant = self._known.peek(Tenant, tenant_ref(tenant_id))
        if caller.run_id is not None or tenant is None or tenant.status is None:
            return
        if not tenant.profile.privacy.record_bodies:
            return
        if len(self._waiting) >= self._most:
            self._lost("overflow", 1)
            return
        self._waiting.append(_Said(caller, request, answer))
        self._due.set()

    async def run(self) -> None:
        """Keep what is noted until cancelled, and then what is left, within seconds."""
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                await self._keep_all()
        finally:
            try:
                async with asyncio.timeout(STOP_S):
                    await self._keep_all()
            except TimeoutError:
                self._lost("stopped", len(self._waiting))

    async def _keep_all(self) -> None:
        while self._waiting:
            count = min(AT_ONCE, len(self._waiting))
            await asyncio.gather(*(self._keep(self._waiting.popleft()) for _ in range(count)))

    async def _keep(self, said: _Said) -> None:
        auth = said.caller.auth
        principal_id, tenant_id = auth.principal.principal_id, auth.tenant_id
        digest = body_digest(principal_id, said.request.request_id)
        try:
            key_id = await self._keeping.subject_key(self._keys, tenant_id, principal_id)
            plain = to_json(body_of(said.request, said.answer, auth.policy_context.model_dump()))
            box = await self._keys.seal(tenant_id, key_id, plain, body_place(digest))
            await self._store.put(tenant_id, digest, key_id.encode() + b"\n" + box)
        except asyncio.CancelledError:
            self._waiting.appendleft(said)  # the process ends: once more, within its time
            raise
        except (AgentOSError, ValueError) as error:
            self._lost("refused", 1)
            log.warning("a call's body was not kept: %s", type(error).__name__)

    def _lost(self, reason: str, count: int) -> None:
        self._metrics.bodies_lost.labels(reason).inc(count)


def body_of(
    request: ModelRequest | EmbedRequest, answer: ModelAnswer | None, context: Mapping[str, Any]
) -> CallBody:
    """Return the texts of a call as policy looks at them."""
    if isinstance(request, EmbedRequest):
        return CallBody(input=_texts(embed_fields(request)), context=context)
    calls = answer.tool_calls if answer is not None else ()
    return CallBody(
        input=_texts(chat_fields(request)),
        tool_output=_texts(tool_output_fields(request)),
        output=() if answer is None else (answer.content,),
        tools=tuple((call.tool_id, _texts(call_fields([call]))) for call in calls),
        context=context,
    )


def _texts(fields: Iterable[Field]) -> tuple[str, ...]:
    return tuple(text for _, text in fields)
