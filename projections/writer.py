"""Moves projections along the log: rows and position in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from psycopg import DataError, IntegrityError

from agentos.domain.aggregate import FoldError
from agentos.domain.log import Recorded
from agentos.projections.errors import (
    PoisonRecordError,
    PositionTakenError,
    ProjectionVersionError,
    RebuiltError,
)
from agentos.projections.projector import Connection, Projector
from agentos.projections.reading import Reading, by_kind, read_record

PLACES: Final = "SELECT name, position, version, build FROM projections WHERE name = ANY(%s)"
MOVE: Final = """
UPDATE projections p SET position = %s, updated_at = now()
FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS old (name, position, build)
WHERE p.name = old.name AND p.position = old.position AND p.build = old.build"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a projection stands in the log, and by which build of its tables."""

    name: str
    position: int
    version: int
    build: int


class Writer:
    """Applies batches of the log, in order, to projections that may stand at different places.

    The position in the database rules: every batch moves it from where this writer left it,
    in the transaction that writes the rows, so of two writers one fails.
    """

    def __init__(self, conn: Connection, projectors: Sequence[Projector]) -> None:
        self._conn = conn
        self._projectors = projectors
        self._places: dict[str, Place] = {}
        self._wanted: dict[str, frozenset[str]] = {}
        for projector in projectors:
            seen = self._wanted.get(projector.kind, frozenset())
            self._wanted[projector.kind] = seen | projector.wanted

    @property
    def position(self) -> int:
        """The position up to which every projection has everything."""
        return min(place.position for place in self._places.values())

    @property
    def foremost(self) -> int:
        """The position of the projection that is furthest."""
        return max(place.position for place in self._places.values())

    @property
    def places(self) -> Mapping[str, Place]:
        """Where each projection stands."""
        return self._places

    async def load(self) -> None:
        """Read the places; `ProjectionVersionError` for tables of another version."""
        self._places = await read_places(self._conn, [p.name for p in self._projectors])
        for projector in self._projectors:
            place = self._places[projector.name]
            if place.version != projector.version:
                raise ProjectionVersionError(projector.name, place.version, projector.version)

    async def write(self, records: Sequence[Recorded]) -> None:
        """Apply records that follow one another in the log; those behind a place are passed over.

        Raises `PositionTakenError`, `RebuiltError`, `PoisonRecordError`, or
        `psycopg.OperationalError`, behind which only `load` knows where it stands.
        """
        try:
            await self._write(records)
        except (DataError, IntegrityError) as exc:
            await self._narrow(records, exc)

    async def _narrow(self, records: Sequence[Recorded], exc: Exception) -> None:
        # PostgreSQL refused a row of the batch: halve it until one record stands alone.
        for projector in self._projectors:
            projector.forget()
        if len(records) == 1:
            reason = f"PostgreSQL refuses its row: {exc}"
            only = records[0]
            raise PoisonRecordError("all", only.position, only.ref, reason) from exc
        half = len(records) // 2
        await self.write(records[:half])
        await self.write(records[half:])

    async def _write(self, records: Sequence[Recorded]) -> None:
        end = records[-1].position
        behind = [p for p in self._projectors if self._places[p.name].position < end]
        if not behind:
            return
        async with self._conn.transaction():
            await self._move(behind, end)
            read: dict[int, Reading] = {}
            kinds = by_kind(records, self._wanted)
            for projector in behind:
                after = self._places[projector.name].position
                own = [r for r in kinds[projector.kind] if r.position > after]
                if own:
                    readings = [self._read(projector, r, read) for r in own]
                    await projector.apply(self._conn, readings)
        for projector in behind:
            place = self._places[projector.name]
            self._places[projector.name] = replace(place, position=end)

    def _read(self, projector: Projector, record: Recorded, read: dict[int, Reading]) -> Reading:
        if (known := read.get(record.position)) is not None:
            return known
        try:
            if not projector.known.issuperset(record.types):
                unknown = set(record.types) - projector.known
                raise FoldError(f"unknown event type {', '.join(sorted(unknown))}")
            reading = read_record(record, self._wanted[record.ref.kind])
        except (FoldError, KeyError, TypeError, ValueError) as exc:
            reason = f"{type(exc).__name__}: {exc}"
            raise PoisonRecordError(projector.name, record.position, record.ref, reason) from exc
        read[record.position] = reading
        return reading

    async def _move(self, behind: Sequence[Projector], end: int) -> None:
        places = [self._places[projector.name] for projector in behind]
        cursor = await self._conn.execute(
            MOVE,
            (
                end,
                [place.name for place in places],
                [place.position for place in places],
                [place.build for place in places],
            ),
        )
        if cursor.rowcount == len(places):
            return
        found = await read_places(self._conn, [place.name for place in places])
        for place in places:
            now = found.get(place.name)
            if now is None or now.build != place.build:
                raise RebuiltError
            if now.position != place.position:
                raise PositionTakenError(place.name, place.position, now.position)
        raise RebuiltError


async def read_places(conn: Connection, names: Sequence[str]) -> dict[str, Place]:
    """Return where the named projections stand."""
    cursor = await conn.execute(PLACES, (list(names),))
    return {values[0]: Place(*values) for values in await cursor.fetchall()}
