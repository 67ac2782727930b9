"""Which key a new run's content is sealed with: decided once, at its beginning."""

from typing import Final

from agentos.domain.errors import DependencyUnavailableError, SubjectErasedError
from agentos.domain.privacy.subject import DataSubject, subject_id_of, subject_ref
from agentos.domain.tenant.tenant import Tenant
from agentos.handlers.parts import Parts

RACES: Final = 3


async def sealing_key(parts: Parts, tenant: Tenant, person: str, *, always: bool = False) -> str:
    """Return the key of a run's data subject, made if it is missing; nothing for a plain run.

    A run is plain when its tenant's switch is off, unless `always`.

    Of a subject that was erased it is the next one: what comes after is not erased with it.
    """
    if not (always or tenant.profile.privacy.erasure):
        return ""
    if parts.keys is None:
        raise DependencyUnavailableError("there are no content keys", dependency="content_keys")
    tenant_id = tenant.ref.tenant_id
    ref = subject_ref(tenant_id, subject_id_of(tenant_id, person))
    subject = await parts.directory.get(DataSubject, ref)
    for _ in range(RACES):
        key_id = subject.key_id
        try:
            await parts.keys.make(tenant_id, key_id)
        except SubjectErasedError:
            subject = await parts.directory.reload(DataSubject, ref)
        else:
            return key_id
    raise SubjectErasedError("the data subject is being erased; try again", retryable=True)
