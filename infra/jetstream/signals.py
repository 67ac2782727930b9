"""Short-lived messages between processes over core NATS."""

import asyncio
from collections.abc import Awaitable, Callable

from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection, DisconnectedError


class NatsSignals:
    """Publishes and subscribes without acknowledgements: any message may be lost."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def publish(self, subject: str, data: bytes) -> None:
        """Send to whoever listens now; without a connection the message is dropped."""
        try:
            self._connection.post(subject, data)
        except DisconnectedError:
            return

    async def subscribe(
        self, subject: str, on_message: Callable[[str, bytes], None]
    ) -> Callable[[], Awaitable[None]]:
        """Call `on_message(subject, data)` for each message; returns how to stop it.

        It is called by the event loop, so an error in it goes to the loop's exception handler
        and the subscription goes on. Raises `DependencyUnavailableError` without a connection.
        """
        loop = asyncio.get_running_loop()
        active = True

        def deliver(subject: str, data: bytes) -> None:
            if active:
                on_message(subject, data)

        def receive(subject: bytes, _reply: bytes, data: bytes, _headers: bytes) -> None:
            loop.call_soon(deliver, subject.decode(), data)

        try:
            await self._connection.wait_up(api.TOTAL_TIMEOUT)
            unsubscribe = await self._connection.subscribe_direct(subject, receive)
        except DisconnectedError as exc:
            raise api.unavailable(str(exc)) from exc

        async def stop() -> None:
            nonlocal active
            active = False
            unsubscribe()

        return stop
