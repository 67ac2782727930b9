"""Denials on their way to the audit chains, counted."""

from collections import defaultdict
from dataclasses import replace
from typing import Final

from agentos.domain.audit.chain import Entry

A_SECOND: Final = 10
KINDS: Final = 1_000


class Denials:
    """Denials of the last second: few records that stand for many, and never in the way."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[tuple[str, str, str, str], tuple[Entry, int]]]
        self._counts = defaultdict(dict)

    def note(self, tenant_id: str, entry: Entry, count: int = 1) -> None:
        """Count a denial; it is recorded within about a second."""
        kinds = self._counts[tenant_id]
        key = (entry.action, entry.resource, entry.reason or "", entry.principal.principal_id)
        first, so_far = kinds.get(key, (entry, 0))
        if so_far or len(kinds) < KINDS:
            kinds[key] = (first, so_far + count)

    def take(self) -> dict[str, list[Entry]]:
        """Return what is to be recorded by tenant, at most ten each, and forget it all."""
        taken, self._counts = self._counts, defaultdict(dict)
        return {tenant: _in_company(list(kinds.values())) for tenant, kinds in taken.items()}


def _in_company(counted: list[tuple[Entry, int]]) -> list[Entry]:
    counted.sort(key=lambda pair: -pair[1])
    alone, rest = counted[: A_SECOND - 1], counted[A_SECOND - 1 :]
    entries = [replace(e, meta={**e.meta, "count": n}) for e, n in alone]
    if rest:
        sample, total = rest[0][0], sum(n for _, n in rest)
        meta = {**sample.meta, "count": total, "kinds": len(rest)}
        entries.append(replace(sample, meta=meta))
    return entries
