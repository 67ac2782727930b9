"""One aggregate that cannot be written must not keep the sweep from all the others."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from agentos.domain.aggregate import FoldError
from agentos.domain.errors import AgentOSError
from agentos.domain.subjects import StreamRef
from agentos.handlers.parts import Parts

SAY_S: Final = 60.0
log = structlog.get_logger()


@contextmanager
def tolerant(parts: Parts, ref: StreamRef) -> Iterator[None]:
    """Pass over what fails for one aggregate; the next sweep tries again.

    It is logged once a minute for each, until it works.
    """
    said, now = parts.watch.unswept, asyncio.get_running_loop().time()
    try:
        yield
    except (AgentOSError, TimeoutError, FoldError) as error:
        if now - said.get(ref, float("-inf")) >= SAY_S:
            said[ref] = now
            log.warning("passed over by the sweep", ref=str(ref), error=str(error))
    else:
        said.pop(ref, None)
