"""A peer's keys: whose known ones hold is not kept waiting, and nobody asks all the time."""

from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.federation.peer import PeerUnreachableError
from agentos.infra.federation import peer_keys
from agentos.infra.federation.client import HttpPeers
from agentos.infra.federation.keys import key_id, public_key
from agentos.infra.federation.peer_keys import PeerKeys
from tests.federation.peering import entry

URLS = ("http://a", "http://b", "http://c")


class Client:
    """Gives the keys, or nothing."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.is_up, self.calls = True, 0

    async def call(self, *_: object, **__: object) -> tuple[int, Any, Any]:
        self.calls += 1
        if not self.is_up:
            raise PeerUnreachableError("nobody there")
        return 200, {"keys": [public_key(key_id(self.key), self.key)]}, {}


async def test_a_peer_that_cannot_be_asked_is_asked_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, now = Client(), [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    keys = PeerKeys(cast("HttpPeers", client), entry("stk_b", URLS))
    known = key_id(client.key)
    assert await keys.find(known) is not None
    client.is_up = False
    now[0] += peer_keys.TTL_S
    for _ in range(5):
        assert await keys.find(known) is not None
    assert client.calls == 2
    now[0] += peer_keys.PACE_S
    for _ in range(5):
        with pytest.raises(DependencyUnavailableError):
            await keys.find("another")
    assert client.calls == 3
    client.is_up = True
    now[0] += peer_keys.PACE_S
    assert await keys.find("another") is None
    assert client.calls == 4
