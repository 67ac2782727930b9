"""Which key the content of a model call is kept under, and the kept content under seal."""

from base64 import b64decode, b64encode
from typing import Any, Final

import orjson

from agentos.domain.errors import InternalError, SubjectErasedError
from agentos.domain.ports import ContentKeys
from agentos.domain.privacy.subject import DataSubject, subject_id_of, subject_ref
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.gateways.http.followed import Followed
from agentos.gateways.model_policy.calls import Caller

RACES: Final = 3
Content = dict[str, Any]


class Keeping:
    """Seals what is kept of a call whose tenant has the switch, with its data subject's key.

    Of a call for a run that is the run's key, as the runtime says; of any other the principal's.
    """

    def __init__(self, known: Followed, keys: ContentKeys | None) -> None:
        self._known = known
        self._keys = keys

    async def key_of(self, caller: Caller) -> str:
        """Return the key of a call's content; nothing where it is kept plain.

        Raises `DependencyUnavailableError`.
        """
        if self._keys is None or caller.run_id is not None:
            return caller.sealed
        tenant_id = caller.auth.tenant_id
        tenant = await self._known.get(Tenant, tenant_ref(tenant_id))
        if tenant.status is None or not tenant.profile.privacy.erasure:
            return ""
        principal_id = caller.auth.principal.principal_id
        return await self.subject_key(self._keys, tenant_id, principal_id)

    async def subject_key(self, keys: ContentKeys, tenant_id: str, principal_id: str) -> str:
        """Return the key of what a principal says now, made if it is missing."""
        ref = subject_ref(tenant_id, subject_id_of(tenant_id, principal_id))
        subject = await self._known.get(DataSubject, ref)
        for _ in range(RACES):
            try:
                await keys.make(tenant_id, subject.key_id)
            except SubjectErasedError:
                subject = await self._known.reload(DataSubject, ref)
            else:
                return subject.key_id
        raise SubjectErasedError("the data subject is being erased; try again", retryable=True)

    async def seal(self, tenant_id: str, key_id: str, content: Content, where: str) -> Content:
        """Return what is kept in place of the content."""
        if not key_id or self._keys is None:
            return content
        box = await self._keys.seal(tenant_id, key_id, orjson.dumps(content), where)
        return {"sealed": key_id, "box": b64encode(box).decode()}

    async def unseal(self, tenant_id: str, kept: Content, where: str) -> Content:
        """Return the content again; `SubjectErasedError` where its key was destroyed."""
        if kept.keys() != {"sealed", "box"} or self._keys is None:
            return kept
        try:
            plain = await self._keys.unseal(
                tenant_id, kept["sealed"], b64decode(kept["box"]), where
            )
        except ValueError as exc:
            raise InternalError("a kept answer does not open") from exc
        content: Content = orjson.loads(plain)
        return content
