"""The kept bodies of direct model calls, opened on the node's machine."""

from pydantic import ValidationError

from agentos.domain.errors import DependencyUnavailableError, SubjectErasedError
from agentos.domain.ports import ContentKeys
from agentos.domain.privacy.bodies import BodyStore, CallBody, body_digest, body_place
from agentos.domain.replay.traffic import Call


class RecordedBodies:
    """Finds a call's body, if one was kept and can be opened."""

    def __init__(self, store: BodyStore, keys: ContentKeys) -> None:
        self._store = store
        self._keys = keys
        self._are_kept: bool | None = None

    async def with_body(self, call: Call) -> Call:
        """Return a direct call with its texts; any other as it is."""
        if call.run_id is not None or call.principal_id is None:
            return call
        if self._are_kept is None:
            self._are_kept = await self._store.are_kept()
        if not self._are_kept:
            return call
        body = await self._body(call.tenant_id, body_digest(call.principal_id, call.request_id))
        return call if body is None else call.with_body(body)

    async def _body(self, tenant_id: str, digest: str) -> CallBody | None:
        kept = await self._store.read(tenant_id, digest)
        if kept is None:
            return None
        key_id, _, box = kept.partition(b"\n")
        try:
            plain = await self._keys.unseal(tenant_id, key_id.decode(), box, body_place(digest))
            return CallBody.model_validate_json(plain)
        except (SubjectErasedError, DependencyUnavailableError, ValidationError, ValueError):
            return None  # erased, or its key is not here: what was found in it is left
