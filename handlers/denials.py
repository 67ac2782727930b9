"""Denials, and other calls without an event, on their way to the audit chains, counted."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from agentos.domain.audit.chain import Entry
from agentos.domain.auth import Principal
from agentos.domain.log import Commit

A_SECOND: Final = 10
WHOLE: Final = frozenset({"secrets.access"})
"""Actions that are told apart however many there are: they are few, and each one counts."""
KINDS: Final = 1_000
VARIOUS: Final = "various"
ROOM: Final = 2
"""Records of a second that stand for all kinds beyond the first: the refused, the allowed."""


class Unclear(NamedTuple):
    """A commit that was sent and not answered for, behind which position, and what is in it."""

    commit: Commit
    expected: int
    entries: list[Entry]


class Denials:
    """Denials of the last second: few records that stand for many, and never in the way."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[tuple[object, ...], tuple[Entry, int]]]
        self._counts = defaultdict(dict)
        self.unclear: dict[str, Unclear] = {}
        """By tenant, the commit of which it is not known whether it was written."""

    def note(self, tenant_id: str, entry: Entry, count: int = 1) -> None:
        """Count a denial; it is recorded within about a second."""
        kinds = self._counts[tenant_id]
        if _key(entry) not in kinds and len(kinds) >= KINDS and entry.action not in WHOLE:
            entry = _various(entry)
        key = _key(entry)
        first, so_far = kinds.get(key, (entry, 0))
        kinds[key] = (first, so_far + count)

    def take(self) -> dict[str, list[Entry]]:
        """Return what is to be recorded by tenant, at most ten each, and forget it all."""
        taken, self._counts = self._counts, defaultdict(dict)
        return {tenant: _in_company(list(kinds.values())) for tenant, kinds in taken.items()}

    def put_back(self, tenant_id: str, entries: Iterable[Entry]) -> None:
        """Note again what was taken and not recorded."""
        for entry in entries:
            meta = {name: value for name, value in entry.meta.items() if name != "count"}
            count = entry.meta["count"]
            self.note(tenant_id, replace(entry, meta=meta), count if type(count) is int else 1)


def _key(entry: Entry) -> tuple[object, ...]:
    who = entry.principal.principal_id
    return (entry.action, entry.resource, entry.outcome, entry.reason, who, *entry.meta.items())


def _various(entry: Entry) -> Entry:
    """Return what stands for all kinds of an action beyond those that are told apart."""
    return Entry(
        Principal(principal_id=VARIOUS),
        entry.action,
        VARIOUS,
        entry.outcome,
        entry.cause,
        reason=None if entry.reason is None else VARIOUS,
    )


def _in_company(counted: list[tuple[Entry, int]]) -> list[Entry]:
    """Return an entry for each kind, the rarest beyond ten by outcome in one."""
    counted.sort(key=lambda pair: -pair[1])
    whole = [pair for pair in counted if pair[0].action in WHOLE]
    others = [pair for pair in counted if pair[0].action not in WHOLE]
    alone, rest = others[: A_SECOND - ROOM], others[A_SECOND - ROOM :]
    entries = [replace(e, meta={**e.meta, "count": n}) for e, n in (*whole, *alone)]
    for outcome in ("denied", "allowed"):
        if found := [pair for pair in rest if pair[0].outcome == outcome]:
            sample, total = found[0][0], sum(n for _, n in found)
            meta = {**sample.meta, "count": total, "kinds": len(found)}
            entries.append(replace(sample, meta=meta))
    return entries
