"""What an earlier process left open: forwards without a result, copies that are not whole."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, cast

from agentos.domain.errors import AgentOSError
from agentos.domain.federation.forward import KIND as FORWARD
from agentos.domain.federation.forward import ForwardRequested
from agentos.domain.federation.remote import KIND as REMOTE
from agentos.domain.federation.remote import RemoteEnded
from agentos.domain.log import Recorded, TailBatch
from agentos.federation.parts import OpenWork, Ports

KINDS: Final = (FORWARD, REMOTE)
log = logging.getLogger(__name__)


async def find_open_work(ports: Ports) -> OpenWork:
    """Return what is open at the log's end.

    The read model says what was open where it stands, and the headers of the commits behind
    that say the rest: so a start costs what is open, not what was ever forwarded. Without the
    read model the headers of all forwards are read. Raises `DependencyUnavailableError`.
    """
    work = await _from_read_model(ports)
    for kind in KINDS:  # one after the other: NATS is many times slower with two filters
        batches = ports.log.tail(after=work.position, kinds=(kind,), headers_only=True)
        async with aclosing(cast("AsyncGenerator[TailBatch]", batches)) as opened:
            async for batch in opened:
                for record in batch.records:
                    _pass(work, record)
                if batch.caught_up:
                    break
    return work


async def _from_read_model(ports: Ports) -> OpenWork:
    figures = ports.peering.figures
    if figures is None:
        return OpenWork()
    try:
        work = await figures.open_work()
    except AgentOSError as error:
        log.warning("all forwards are looked through in the log: %s", error)
        return OpenWork()
    if work.position > await ports.log.head():
        log.warning("the read model is ahead of the log: all forwards are looked through there")
        return OpenWork()
    return work


def _pass(work: OpenWork, record: Recorded) -> None:
    last = record.types[-1] if record.types else ""
    if record.ref.kind == FORWARD:
        refs, is_open = work.forwards, last == ForwardRequested.TYPE
    else:
        refs, is_open = work.copies, last not in ("", RemoteEnded.TYPE)
    (refs.add if is_open else refs.discard)(record.ref)
