"""Streamed text on its way to whoever watches: never in the log, coalesced, may be lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import orjson

from agentos.domain.ports import Signals
from agentos.domain.run.run import Run
from agentos.domain.subjects import delta

PAUSE_S: Final = 0.02


class Deltas:
    """Publishes the pieces of model answers, at most one message each 20 ms a step."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    @asynccontextmanager
    async def of_step(self, run: Run, step_id: str) -> AsyncIterator[Callable[[str], None] | None]:
        """Yield what takes the pieces of one step's text, `None` when nobody may watch."""
        if not run.created.run_options["stream_events"]:
            yield None
            return
        pieces: list[str] = []
        pump: asyncio.Task[None] | None = None
        subject = delta(run.ref.tenant_id, run.ref.aggregate_id)

        async def send() -> None:
            text = "".join(pieces)
            pieces.clear()
            if text:
                data = {"run_id": run.ref.aggregate_id, "step_id": step_id, "text": text}
                await self._signals.publish(subject, orjson.dumps(data))

        async def keep_sending() -> None:
            while True:
                await asyncio.sleep(PAUSE_S)
                await send()

        def on_delta(text: str) -> None:
            nonlocal pump
            pieces.append(text)
            if pump is None:
                pump = asyncio.create_task(keep_sending())

        try:
            yield on_delta
        finally:
            if pump is not None:
                pump.cancel()
            await send()
