"""The parts of federation that live as long as the door: put together from its ports."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, cast

from starlette.requests import Request

from agentos.domain.errors import DependencyUnavailableError
from agentos.federation.backhaul import Backhaul
from agentos.federation.book import PeerBook
from agentos.federation.credentials import Credentials
from agentos.federation.feeding import Feeder
from agentos.federation.forwarding import Forwarder
from agentos.federation.links import Link
from agentos.federation.parts import Ports
from agentos.federation.taking_up import find_open_work
from agentos.federation.trust import PeerGate, PeerTokens

RETRY_S: Final = 0.5
log = logging.getLogger(__name__)


class Federation:
    """What a gateway process knows of its peers, and does with them."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        stack_id = ports.local.info.stack_id
        self.credentials = Credentials(
            stack_id, ports.peering.signer, ports.new_id, is_prod=ports.peering.is_prod
        )
        self.book = PeerBook(ports, self.credentials)
        self.tokens = PeerTokens(ports, self.book)
        self.gate = PeerGate(ports, self.book)
        self.links = {inbox.stack_id: Link(inbox) for inbox in ports.peering.inboxes}
        self.feeder = Feeder(ports, self.book, self.gate)
        self.backhaul = Backhaul(ports, self.book, self.credentials, self.links)
        self.forwarder = Forwarder(ports, self.book, self.credentials)
        self.forwarder.on_accepted.append(self.backhaul.follow)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """Return what has to run for as long as the door is open."""
        return [
            self.book.run(),
            self.forwarder.run(),
            self.backhaul.run(),
            self._take_up(),
            self.feeder.run(),
            *(link.run() for link in self.links.values()),
            self._hold(),
        ]

    async def _take_up(self) -> None:
        """Go on with what an earlier process left, as soon as the log says what that is."""
        while True:
            try:
                work = await find_open_work(self.ports)
                break
            except DependencyUnavailableError as error:
                log.warning("forwards and copies are not taken up yet: %s", error)
                await asyncio.sleep(RETRY_S)
        for ref in work.forwards:
            self.forwarder.resume(ref)
        for ref in work.copies:
            self.backhaul.follow(ref)
        if work.forwards or work.copies:
            log.info("took up %d forwards, %d copies", len(work.forwards), len(work.copies))
        await asyncio.Event().wait()

    async def _hold(self) -> None:
        """At the end, let go of calls in hand (their intents stand) and of connections."""
        try:
            await asyncio.Event().wait()
        finally:
            await self.forwarder.close()
            await self.ports.peering.client.close()


def federation_of(request: Request) -> Federation:
    """Return the parts that the app was made with."""
    return cast("Federation", request.app.state.federation)
