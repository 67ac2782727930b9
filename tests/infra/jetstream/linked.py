"""Two real brokers whose link goes through a proxy that a test cuts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentos.infra.jetstream.links import JetStreamGiven, JetStreamTaken, url_of
from agentos.infra.nats_links import Link, Links, giver, taker
from agentos.infra.nats_server import configure_nats
from tests.federation.tcp_proxy import TcpProxy
from tests.infra.embedded import EmbeddedNats, reserved_port

SECRET = "a-secret-of-a-link-for-tests-only-0123456789"


@dataclass
class Linked:
    """B gives, A takes. `extra` is a peer of B's that never comes."""

    a: EmbeddedNats
    b: EmbeddedNats
    proxy: TcpProxy
    a_links: Links
    b_links: Links

    def given(self, stack_id: str = "stk_a") -> JetStreamGiven:
        """Return B's outbox for a peer."""
        link = next(x for x in self.b_links.links if x.stack_id == stack_id)
        return JetStreamGiven(stack_id, url_of(self.b.url, giver(link, "stk_b")))

    def taken(self) -> JetStreamTaken:
        """Return A's inbox."""
        (link,) = self.a_links.links
        return JetStreamTaken("stk_b", url_of(self.a.url, taker(link, "stk_a")))


@asynccontextmanager
async def linked() -> AsyncIterator[Linked]:
    """Give two brokers, started, with a link between them."""
    a, b = EmbeddedNats(), EmbeddedNats()
    port = reserved_port()
    proxy = TcpProxy(port)
    await proxy.start()
    to_a = (Link("stk_a", SECRET, gives=True), Link("stk_x", SECRET[::-1], gives=True))
    b_links = Links("stk_b", f"127.0.0.1:{port}", None, to_a)
    a_links = Links("stk_a", None, None, (Link("stk_b", SECRET, f"nats://127.0.0.1:{proxy.port}"),))
    configure_nats(b.server.home, sync_always=False, links=b_links)
    configure_nats(a.server.home, sync_always=False, links=a_links)
    try:
        b.start()
        a.start()
        yield Linked(a, b, proxy, a_links, b_links)
    finally:
        await proxy.close()
        a.remove()
        b.remove()
