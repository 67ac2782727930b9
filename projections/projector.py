"""What every projection's projector is."""

from collections.abc import Sequence
from typing import Any, ClassVar, LiteralString, Protocol

from psycopg import AsyncConnection

from agentos.projections.reading import Reading

Connection = AsyncConnection[tuple[Any, ...]]


class Projector(Protocol):
    """Folds the events of one kind of aggregate into the rows of its tables.

    `version` is raised whenever the same events would give other rows; `tables` are in the
    order in which queries lock them; `known` are all types it can meet, `wanted` those whose
    content it needs.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    kind: ClassVar[str]
    tables: ClassVar[tuple[LiteralString, ...]]
    known: ClassVar[frozenset[str]]
    wanted: ClassVar[frozenset[str]]

    async def apply(self, conn: Connection, readings: Sequence[Reading]) -> None:
        """Fold a batch and write its rows, inside the caller's transaction.

        Raises `PoisonRecordError` for what does not fold. Rows do not depend on how the log
        was cut into batches.
        """
        ...

    def forget(self) -> None:
        """Drop what is remembered between batches: the transaction did not come to be."""
        ...
