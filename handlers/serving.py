"""How commands arrive: FastStream subscribers, one subject a command, answered side by side.

A message is one command `{auth, command}` or a list of them: what a gateway got within one turn
of its loop comes in one message and goes back in one. FastStream takes a message, the work
itself is a task of its own, so that hundreds wait for their appends at the same time.
"""

import asyncio
from typing import Any, Final

import orjson
import structlog
from faststream import AckPolicy
from faststream.nats import NatsBroker

from agentos.domain.subjects import HANDLERS_GROUP, command
from agentos.handlers.middleware.errors import answer_errors
from agentos.handlers.parts import Parts
from agentos.handlers.routes import ROUTES, handle

CONCURRENT: Final = 2_000
log = structlog.get_logger()
STOP_S: Final = 10.0


class CommandServer:
    """The subscriptions of one handler process, and the tasks that answer."""

    def __init__(self, nats_url: str, parts: Parts) -> None:
        self._parts = parts
        self._tasks: set[asyncio.Task[None]] = set()
        self.broker = NatsBroker(
            nats_url,
            apply_types=False,
            decoder=_decode,
            graceful_timeout=STOP_S,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,  # type: ignore[arg-type]  # nats-py takes fractions
            logger=None,
        )
        for name in ROUTES:
            self._subscribe(name)

    async def start(self) -> None:
        """Take commands from now on."""
        await self.broker.start()

    async def stop(self) -> None:
        """Take no more commands, answer those in hand."""
        for subscriber in self.broker.subscribers:
            await subscriber.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        await self.broker.stop()

    def _subscribe(self, name: str) -> None:
        @self.broker.subscriber(
            command(name), queue=HANDLERS_GROUP, no_reply=True, ack_policy=AckPolicy.MANUAL
        )
        async def take(message: Any) -> None:
            incoming = self.broker.context.get_local("message").raw_message
            while len(self._tasks) >= CONCURRENT:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._reply(name, message, incoming))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("an answer was not sent", error=str(error))

    async def _reply(self, name: str, message: Any, incoming: Any) -> None:
        if isinstance(message, list):
            answers = await asyncio.gather(*(self._answer(name, one) for one in message))
            body = b"[" + b",".join(answers) + b"]"
        else:
            body = await self._answer(name, message)
        await incoming.respond(body)

    async def _answer(self, name: str, message: dict[str, Any]) -> bytes:
        async def answer() -> bytes:
            return orjson.dumps({"ok": await handle(self._parts, name, message)})

        return await answer_errors(name, answer, message)


async def _decode(message: Any) -> Any:
    return orjson.loads(message.body)
