"""Two real brokers whose link goes through a proxy that a test cuts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agentos.infra.federation.certs import make_authority, make_node_certificate
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


def files_of(place: Path | None, stack_id: str) -> tuple[str, str, str] | None:
    """Return authority, certificate and key of a node, as `agentos peers certs` makes them."""
    if place is None:
        return None
    make_authority(place)
    certificate, key = make_node_certificate(place, stack_id, ["127.0.0.1"])
    return str(place / "ca.pem"), str(certificate), str(key)


@asynccontextmanager
async def linked(certificates: Path | None = None) -> AsyncIterator[Linked]:
    """Give two brokers, started, with a link between them; over TLS with a place for its files."""
    a, b = EmbeddedNats(), EmbeddedNats()
    port = reserved_port()
    proxy = TcpProxy(port)
    await proxy.start()
    to_a = (Link("stk_a", SECRET, gives=True), Link("stk_x", SECRET[::-1], gives=True))
    b_links = Links("stk_b", f"127.0.0.1:{port}", files_of(certificates, "stk_b"), to_a)
    scheme = "nats" if certificates is None else "tls"
    to_b = Link("stk_b", SECRET, f"{scheme}://127.0.0.1:{proxy.port}")
    a_links = Links("stk_a", None, files_of(certificates, "stk_a"), (to_b,))
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
