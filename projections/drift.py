"""Looks for rows that are not what the log says: a sample, now and then, in the background.

An aggregate is picked by a random place in the log, so that a missing row is found too. Its
rows are folded again beside the live ones, by the same projector, in a transaction that is
taken back; where the two differ, that is drift: an error in the log of the process, and a count.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import IsolationLevel, OperationalError, sql
from psycopg.errors import InvalidSchemaName, UndefinedTable

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.log import Recorded
from agentos.domain.ports import EventLog
from agentos.domain.subjects import StreamRef
from agentos.projections.all import make_projectors
from agentos.projections.projector import Connection, Projector
from agentos.projections.reading import read_record
from agentos.projections.schema import LIVE, connect, create_tables
from agentos.projections.writer import read_places

SCRATCH: Final = "agentos_drift"
EVERY_S: Final = 10.0
SAMPLE: Final = 5
LARGEST: Final = 1000
KEYS: Final[dict[str, LiteralString]] = {"run": "run_id", "agent": "agent_id"}
"""Kinds whose rows follow from one aggregate alone, and the column that names it."""
ROWS: Final = "SELECT t::text FROM {schema}.{table} t WHERE tenant_id = %s AND {key} = %s"
HOLD: Final = sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE")

AWAY: Final = (OperationalError, UndefinedTable, InvalidSchemaName, DependencyUnavailableError)

logger = logging.getLogger(__name__)
Rows = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Drift:
    """Rows of one aggregate in one table that the log does not give."""

    projection: str
    table: str
    ref: StreamRef
    position: int


class DriftCheck:
    """Refolds a sample for ever. `report` is told of every drift that is found.

    It has two connections of its own; whatever is away, or not made yet, is waited for.
    """

    def __init__(
        self,
        log: EventLog,
        dsn: str,
        report: Callable[[Drift], None],
        *,
        every_s: float = EVERY_S,
        sample: int = SAMPLE,
        chance: random.Random | None = None,
    ) -> None:
        self._log = log
        self._dsn = dsn
        self._report = report
        self._every_s = every_s
        self._sample = sample
        self._chance = chance or random.Random()  # noqa: S311 - a sample, no secret
        self._projectors = [p for p in make_projectors() if p.kind in KEYS]
        self.checked = 0

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._session()
            except AWAY as exc:
                logger.info("the drift check waits: %s", str(exc).strip())

    async def _session(self) -> None:
        async with (
            await connect(self._dsn, LIVE, "agentos-drift") as live,
            await connect(self._dsn, SCRATCH, "agentos-drift") as scratch,
        ):
            await _prepare(scratch, self._projectors)
            while True:
                for ref in await self.pick():
                    for drift in await self.check(ref, live, scratch):
                        self._say(drift)
                await asyncio.sleep(self._every_s)

    def _say(self, drift: Drift) -> None:
        logger.error(
            "the read model has drifted: projection %s, table %s, %s/%s/%s at position %d; "
            "run `agentos replay rebuild %s`",
            drift.projection,
            drift.table,
            *drift.ref,
            drift.position,
            drift.projection,
        )
        self._report(drift)

    async def pick(self) -> list[StreamRef]:
        """Return some aggregates from behind a random place of the log."""
        head = await self._log.head()
        if not head:
            return []
        after = self._chance.randrange(head)
        tail = self._log.tail(after=after, kinds=tuple(KEYS), headers_only=True)
        async with aclosing(tail):  # type: ignore[type-var]  # an async generator
            async for batch in tail:
                found = dict.fromkeys(record.ref for record in batch.records)
                if found or batch.caught_up:
                    return list(found)[: self._sample]
        return []

    async def check(self, ref: StreamRef, live: Connection, scratch: Connection) -> list[Drift]:
        """Return where the rows of an aggregate are not those that the log gives."""
        self.checked += 1
        found: list[Drift] = []
        for projector in self._projectors:
            if projector.kind == ref.kind:
                found += await self._check(projector, ref, live, scratch)
        return found

    async def _check(
        self, projector: Projector, ref: StreamRef, live: Connection, scratch: Connection
    ) -> list[Drift]:
        position, there = await _live_rows(live, projector, ref)
        records = await self._log.read(ref)  # behind the rows: it has all that they are made of
        if not records or len(records) > LARGEST or position < records[0].position:
            return []
        known = [record for record in records if record.position <= position]
        would_be = await _folded_rows(scratch, projector, ref, known)
        return [
            Drift(projector.name, table, ref, position)
            for table in projector.tables
            if there[table] != would_be[table]
        ]


async def _prepare(scratch: Connection, projectors: Sequence[Projector]) -> None:
    name = sql.Identifier(SCRATCH)
    await scratch.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))
    await create_tables(scratch, SCRATCH, projectors)


async def _live_rows(live: Connection, projector: Projector, ref: StreamRef) -> tuple[int, Rows]:
    """Return where the projection stands and the aggregate's rows, of one and the same moment.

    The tables are held before the moment is taken: what a rebuild put in their place behind it
    would look empty.
    """
    await live.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    tables = [sql.Identifier(LIVE, table) for table in projector.tables]
    async with live.transaction():
        await live.execute(HOLD.format(sql.SQL(", ").join(tables)))
        places = await read_places(live, [projector.name])
        place = places.get(projector.name)
        if place is None or place.version != projector.version:
            return 0, {}
        return place.position, await _rows(live, LIVE, projector, ref)


async def _folded_rows(
    scratch: Connection, projector: Projector, ref: StreamRef, records: Sequence[Recorded]
) -> Rows:
    """Return the rows that the log gives; nothing of them stays."""
    readings = [read_record(record, projector.wanted) for record in records if record.types]
    try:
        async with scratch.transaction(force_rollback=True):
            if readings:
                await projector.apply(scratch, readings)
            return await _rows(scratch, SCRATCH, projector, ref)
    finally:
        projector.forget()


async def _rows(conn: Connection, schema: str, projector: Projector, ref: StreamRef) -> Rows:
    found: Rows = {}
    for table in projector.tables:
        query = sql.SQL(ROWS).format(
            schema=sql.Identifier(schema),
            table=sql.Identifier(table),
            key=sql.Identifier(KEYS[projector.kind]),
        )
        cursor = await conn.execute(query, (ref.tenant_id, ref.aggregate_id))
        found[table] = sorted(row for (row,) in await cursor.fetchall())
    return found
