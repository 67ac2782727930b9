"""Commits in, spans out: what is open is remembered, what is not is read from the log."""

from collections import OrderedDict
from typing import Final

from agentos.domain.aggregate import FoldError, read_event, read_events
from agentos.domain.envelope import Event
from agentos.domain.federation.forward import Forward, ForwardAccepted, ForwardFailed
from agentos.domain.log import Recorded
from agentos.domain.models.provider import Providers
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate
from agentos.domain.ports import EventLog
from agentos.domain.run.events import FINAL_TYPES, RunCreated
from agentos.domain.tracing.call_spans import call_span
from agentos.domain.tracing.forward_spans import forward_span
from agentos.domain.tracing.run_spans import RUN_FACTS, RunSpans
from agentos.domain.tracing.span import Span
from agentos.domain.usage.usage import UsageRecorded

KINDS: Final = ("run", "usage", "federation", "catalog")
MOST_OPEN: Final = 20_000
FORWARD_ENDS: Final = frozenset({ForwardAccepted.TYPE, ForwardFailed.TYPE})
UNREADABLE: Final = (FoldError, KeyError, TypeError, ValueError)


class SpanMapper:
    """Says of each commit of `KINDS`, taken in the log's order, which spans ended with it."""

    def __init__(self, event_log: EventLog, *, most_open: int = MOST_OPEN) -> None:
        self._log = event_log
        self._most_open = most_open
        self._runs: OrderedDict[str, RunSpans] = OrderedDict()
        self._catalog = CatalogAggregate(CATALOG_REF)
        self._providers = Providers(self._catalog.document)

    async def load(self) -> None:
        """Begin anew: forget the runs, read the catalog. Raises `DependencyUnavailableError`.

        What was taken and not delivered is found again by whoever takes its commits again.
        """
        self._runs.clear()
        catalog = CatalogAggregate(CATALOG_REF)
        self._catalog = catalog.fold(await self._log.read(catalog.ref))
        self._providers = Providers(self._catalog.document)

    async def take(self, record: Recorded) -> list[Span]:
        """Return the spans that ended with a commit.

        Raises `DependencyUnavailableError`, then the same commit may be taken again; `FoldError`
        or another of `UNREADABLE` for what cannot be read.
        """
        match record.ref.kind:
            case "run" if record.types:
                return await self._run(record)
            case "usage":
                return self._calls(record)
            case "federation" if not FORWARD_ENDS.isdisjoint(record.types):
                return await self._forward(record)
            case "catalog":
                self._providers = Providers(self._catalog.fold([record]).document)
        return []

    async def _run(self, record: Recorded) -> list[Span]:
        run_id = record.ref.aggregate_id
        run = self._runs.get(run_id)
        if run is None:
            run = await self._opened(record)
            self._runs[run_id] = run
            if len(self._runs) > self._most_open:
                self._runs.popitem(last=False)
        if record.position <= run.position:
            return []
        found = run.take(facts_of(record))
        run.position = record.position
        if not FINAL_TYPES.isdisjoint(record.types):
            del self._runs[run_id]
        return found

    async def _opened(self, record: Recorded) -> RunSpans:
        """Return the run as it was before a commit; its earlier spans are sent already."""
        run = RunSpans(record.ref)
        if record.types[0] != RunCreated.TYPE:
            for earlier in await self._log.read(record.ref):
                if earlier.position >= record.position:
                    break
                run.take(facts_of(earlier))
                run.position = earlier.position
        return run

    def _calls(self, record: Recorded) -> list[Span]:
        known = {UsageRecorded.TYPE: UsageRecorded}
        events = [
            read_event(line, known)
            for kind, line in zip(record.types, record.lines(), strict=True)
            if kind == UsageRecorded.TYPE
        ]
        spans = (
            call_span(event, event.payload, self._providers.of)
            for event in events
            if isinstance(event.payload, UsageRecorded)
        )
        return [span for span in spans if span is not None]

    async def _forward(self, record: Recorded) -> list[Span]:
        events: list[Event] = []
        for earlier in await self._log.read(record.ref):
            if earlier.position <= record.position:
                events += read_events(earlier, Forward.PAYLOADS)
        span = forward_span(record.ref, events) if events else None
        return [] if span is None else [span]


def facts_of(record: Recorded) -> list[Event]:
    """Return the events of a run's commit that say something of its spans."""
    return [
        read_event(line, RUN_FACTS)
        for kind, line in zip(record.types, record.lines(), strict=True)
        if kind in RUN_FACTS
    ]
