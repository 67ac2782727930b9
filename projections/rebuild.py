"""Makes the tables anew from the log, beside the live ones, and puts them in their place.

Nothing stops meanwhile: the live projector goes on with the old tables, queries read them,
and one short transaction puts the new ones in. The live projector notices and goes on with
those. Steps: note where the old tables stand and their digests; build to exactly there and
compare; follow the live position; switch under its lock.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import IsolationLevel, sql
from psycopg.errors import LockNotAvailable

from agentos.domain.ports import EventLog
from agentos.projections.all import make_projectors
from agentos.projections.chunks import follow
from agentos.projections.digest import TableDigest, digest_tables
from agentos.projections.errors import RebuildRunningError, SwitchBlockedError
from agentos.projections.model_calls.projector import DAYS
from agentos.projections.projector import Connection, Projector
from agentos.projections.schema import LIVE, REBUILD, connect, create_tables
from agentos.projections.writer import Writer, read_places

REBUILD_LOCK: Final = 0x61676F73_02
# The switch holds the live position's lock while it catches up: it begins when this few
# records are missing.
NEAR: Final = 2000
ROUNDS: Final = 20
SWITCH_TIMEOUT_S: Final = 60
LOCK_PLACES: Final = (
    "SELECT position FROM agentos.projections WHERE name = ANY(%s) ORDER BY name FOR UPDATE"
)
LOCK: Final = sql.SQL("LOCK TABLE {}.{} IN ACCESS EXCLUSIVE MODE")
LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '200ms'"
LOCK_PAUSE_S: Final = 0.3
LOCK_TRIES: Final = 30
THERE: Final = "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename = ANY(%s)"
PUT_PLACE: Final = (
    "UPDATE agentos.projections SET position = %s, version = %s, build = build + 1, "
    "updated_at = now() WHERE name = %s"
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rebuild is: a position of the last one, events so far, seconds so far."""

    position: int
    target: int
    events: int
    seconds: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds if self.seconds else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Seconds to go at the pace so far; `None` before the first record."""
        if not self.position:
            return None
        return self.seconds / self.position * max(0, self.target - self.position)


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild did. `before` is empty where the old tables could not be compared."""

    projections: list[str]
    position: int
    events: int
    seconds: float
    before: list[TableDigest]
    after: list[TableDigest]

    @property
    def rate(self) -> float:
        """Events a second, the comparison not counted."""
        return self.events / self.seconds if self.seconds else 0.0

    @property
    def identical(self) -> bool | None:
        """Whether the new rows are the old ones, at the same position; `None`: not comparable."""
        return self.before == self.after if self.before else None


@dataclass(slots=True)
class _Build:
    """A rebuild under way."""

    log: EventLog
    conn: Connection
    writer: Writer
    report: Callable[[Progress], None]
    events: int = 0
    seconds: float = 0.0

    async def to(self, target: int) -> None:
        """Apply everything up to and with `target`, nothing behind it."""
        if self.writer.position < target:
            before = self.seconds
            began = time.monotonic()
            async for _ in self._steps(target):
                self.seconds = before + time.monotonic() - began
                place = self.writer.position
                self.report(Progress(place, target, self.events, self.seconds))

    async def _steps(self, target: int) -> AsyncIterator[None]:
        async with follow(self.log, self.writer.position) as chunks:
            async for records, caught_up in chunks:
                wanted = [record for record in records if record.position <= target]
                if wanted:
                    await self.writer.write(wanted)
                    self.events += sum(len(record.types) for record in wanted)
                    yield
                # The target was in the log before this tail began, or was purged since.
                if caught_up or len(wanted) < len(records) or self.writer.position >= target:
                    return


async def _nothing_to_ask() -> None:
    """The log alone is asked."""


async def rebuild(
    log: EventLog,
    dsn: str,
    names: Sequence[str],
    report: Callable[[Progress], None],
    *,
    model_calls_days: int = DAYS,
    still_whole: Callable[[], Awaitable[None]] = _nothing_to_ask,
) -> Rebuilt:
    """Rebuild the named projections and return what came of it.

    `model_calls_days` must be what the live projector goes by, else the rows differ.
    `still_whole` raises when the log was not whole all the time: nothing is switched then.

    Raises `RebuildRunningError` while another rebuild runs, `PoisonRecordError`,
    `SwitchBlockedError` when somebody reads the live tables without an end,
    `DependencyUnavailableError`, or `psycopg.OperationalError`; the live tables are untouched
    then.
    """
    projectors = make_projectors(tuple(names), model_calls_days=model_calls_days)
    tables = [table for projector in projectors for table in projector.tables]
    async with await connect(dsn, LIVE, "agentos-rebuild") as live:
        await _lock_out_others(live)
        await create_tables(live, LIVE, projectors)
        stand, before = await _before(live, projectors, tables)
        async with await connect(dsn, REBUILD, "agentos-rebuild") as conn:
            await _drop(conn)
            await create_tables(conn, REBUILD, projectors)
            build = _Build(log, conn, Writer(conn, projectors), report)
            await build.writer.load()
            head = await log.head()
            comparable = 0 < stand <= head
            await build.to(stand if comparable else head)
            after = await digest_tables(conn, REBUILD, tables)
            if comparable:
                await _approach(build, live, projectors)
            await still_whole()
            try:
                async with asyncio.timeout(SWITCH_TIMEOUT_S), conn.transaction():
                    await _switch(build, projectors, tables, follow_live=comparable)
            except (TimeoutError, LockNotAvailable) as exc:
                raise SwitchBlockedError from exc
            await _drop(conn)
        # A closed connection's lock is held until the server has noticed: give it back here.
        await live.execute("SELECT pg_advisory_unlock(%s)", (REBUILD_LOCK,))
    return Rebuilt(
        list(names),
        build.writer.position,
        build.events,
        build.seconds,
        before if comparable else [],
        after,
    )


async def _lock_out_others(live: Connection) -> None:
    cursor = await live.execute("SELECT pg_try_advisory_lock(%s)", (REBUILD_LOCK,))
    if await cursor.fetchone() != (True,):
        raise RebuildRunningError("another rebuild is running on this database; wait for its end")


async def _drop(conn: Connection) -> None:
    await conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(REBUILD)))


async def _before(
    live: Connection, projectors: Sequence[Projector], tables: Sequence[LiteralString]
) -> tuple[int, list[TableDigest]]:
    """Return where the live tables stand and their digests, of one and the same moment.

    Position 0 when they are new, of another version, or not all at one position.
    """
    await live.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    async with live.transaction():
        places = await read_places(live, [projector.name for projector in projectors])
        comparable = all(places[p.name].version == p.version for p in projectors)
        positions = {place.position for place in places.values()}
        if not comparable or len(positions) > 1 or positions == {0}:
            return 0, []
        return positions.pop(), await digest_tables(live, LIVE, tables)


async def _approach(build: _Build, live: Connection, projectors: Sequence[Projector]) -> None:
    for _ in range(ROUNDS):
        places = await read_places(live, [projector.name for projector in projectors])
        target = max(place.position for place in places.values())
        if target - build.writer.position <= NEAR:
            return
        await build.to(target)


async def _switch(
    build: _Build,
    projectors: Sequence[Projector],
    tables: Sequence[LiteralString],
    *,
    follow_live: bool,
) -> None:
    conn = build.conn
    names = [projector.name for projector in projectors]
    cursor = await conn.execute(LOCK_PLACES, (names,))
    target = max(position for (position,) in await cursor.fetchall())
    if follow_live:
        await build.to(target)
    live, new = sql.Identifier(LIVE), sql.Identifier(REBUILD)
    # An older version may not have had all of them.
    cursor = await conn.execute(THERE, (LIVE, list(tables)))
    there = {name for (name,) in await cursor.fetchall()}
    old = [sql.Identifier(table) for table in tables if table in there]
    await _lock_all(conn, old)
    for table in old:
        await conn.execute(sql.SQL("DROP TABLE {}.{}").format(live, table))
    for table in map(sql.Identifier, tables):
        await conn.execute(sql.SQL("ALTER TABLE {}.{} SET SCHEMA {}").format(new, table, live))
    for projector in projectors:
        values = (build.writer.position, projector.version, projector.name)
        await conn.execute(PUT_PLACE, values)


async def _lock_all(conn: Connection, tables: Sequence[sql.Identifier]) -> None:
    """Keep everybody out of the live tables; `LockNotAvailable` when one reads on and on.

    Whoever asks behind this waits with it: so it waits for a moment only, lets them pass, and
    asks again.
    """
    for left in reversed(range(LOCK_TRIES)):
        try:
            async with conn.transaction():
                await conn.execute(LOCK_TIMEOUT)
                for table in tables:
                    await conn.execute(LOCK.format(sql.Identifier(LIVE), table))
        except LockNotAvailable:
            if not left:
                raise
            await asyncio.sleep(LOCK_PAUSE_S)
        else:
            return
