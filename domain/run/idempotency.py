"""Which run an idempotency key names: an id that every process derives the same way.

The id follows from the key, an epoch of 30 days and a generation, so the append of
`run.created` with expected position 0 is itself the race's judge: no second store has to
agree with the log. A key that is used again after its time to live takes the next
generation; the epoch keeps an id from coming back after a run was purged.
"""

from dataclasses import dataclass
from typing import Final

from agentos.domain.ids import derived_id

EPOCH_MS: Final = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class RunKey:
    """The scope of an idempotency key: tenant + principal + agent.

    A principal of a peer's is another than one of this node's with the same name.
    """

    tenant_id: str
    principal_id: str
    agent_id: str
    key: str
    stack_id: str | None = None

    def run_id(self, time_ms: int, generation: int = 0, epochs_ago: int = 0) -> str:
        """Return the run that the key names in the epoch of `time_ms`."""
        epoch = time_ms // EPOCH_MS - epochs_ago
        origin = () if self.stack_id is None else (self.stack_id,)
        parts = (self.tenant_id, self.principal_id, self.agent_id, self.key, *origin)
        return derived_id("run", *parts, str(epoch), str(generation))


def may_be_older(time_ms: int, ttl_ms: int) -> bool:
    """Whether a key used `ttl_ms` before `time_ms` may lie in the epoch before."""
    return time_ms % EPOCH_MS < ttl_ms
