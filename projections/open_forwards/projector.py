"""Keeps the forwards that have an intent and no result in `open_forwards`."""

from collections.abc import Sequence
from typing import ClassVar, Final, LiteralString

from agentos.domain.federation.forward import Forward, ForwardRequested
from agentos.domain.log import Recorded
from agentos.projections.projector import Connection
from agentos.projections.reading import Reading

WRITE: Final = (
    "INSERT INTO open_forwards (tenant_id, forward_id, position) VALUES (%s, %s, %s) "
    "ON CONFLICT (tenant_id, forward_id) DO UPDATE SET position = EXCLUDED.position"
)
REMOVE: Final = "DELETE FROM open_forwards WHERE tenant_id = %s AND forward_id = %s"


class OpenForwardsProjector:
    """One row a forward, for as long as its last event is the intent."""

    name: ClassVar[str] = "open_forwards"
    version: ClassVar[int] = 1
    kind: ClassVar[str] = Forward.KIND
    tables: ClassVar[tuple[LiteralString, ...]] = ("open_forwards",)
    known: ClassVar[frozenset[str]] = frozenset(Forward.PAYLOADS)
    wanted: ClassVar[frozenset[str]] = frozenset()

    async def apply(self, conn: Connection, readings: Sequence[Reading]) -> None:
        """Write what is open behind a batch, and remove what is not."""
        lasts: dict[tuple[str, str], Recorded] = {
            (r.ref.tenant_id, r.ref.aggregate_id): r.record for r in readings
        }
        opened = {key for key, last in lasts.items() if last.types[-1] == ForwardRequested.TYPE}
        async with conn.cursor() as cursor:
            await cursor.executemany(WRITE, [(*key, lasts[key].position) for key in sorted(opened)])
            await cursor.executemany(REMOVE, sorted(lasts.keys() - opened))

    def forget(self) -> None:
        """Nothing is remembered between batches."""
