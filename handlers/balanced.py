"""Loading an aggregate that has balances: from the last one on."""

from agentos.domain.admission.balanced import Balanced
from agentos.domain.ports import EventLog


async def catch_up(log: EventLog, aggregate: Balanced) -> None:
    """Fold what the log has behind the aggregate; a new one begins at its last balance."""
    after = aggregate.position
    if after == 0 and (last := await log.last(aggregate.ref)) is not None and last.base:
        after = last.base - 1
    aggregate.catch_up(await log.read(aggregate.ref, after=after))
