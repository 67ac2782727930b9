"""Whether the node can serve, asked at the moment of the question."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from agentos.domain.errors import AgentOSError
from agentos.domain.ports import Signals
from agentos.domain.subjects import ALL_HEARTBEATS

log = logging.getLogger(__name__)

HEARD_S: Final = 1.1
CHECK_S: Final = 0.7
FRESH_S: Final = 0.2
RETRY_S: Final = 0.3
OK: Final = "ok"
Probe = Callable[[], Awaitable[object]]


async def listen_for_ever(
    signals: Signals, subject: str, on_message: Callable[[str, bytes], None]
) -> None:
    """Call `on_message` for each message until cancelled; a broker that is down is tried again."""
    stop = None
    try:
        while stop is None:
            try:
                stop = await signals.subscribe(subject, on_message)
            except AgentOSError as error:
                log.warning("cannot listen to %s: %s", subject, error)
                await asyncio.sleep(RETRY_S)
        await asyncio.Event().wait()
    finally:
        if stop is not None:
            await stop()


class Heartbeats:
    """When each service of the node was last heard."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._heard: dict[str, float] = {}

    async def run(self) -> None:
        """Listen until cancelled."""
        await listen_for_ever(self._signals, ALL_HEARTBEATS, self._on_beat)

    def _on_beat(self, subject: str, data: bytes) -> None:
        service = subject.split(".", 2)[1]
        self._heard[service] = asyncio.get_running_loop().time()

    def state(self, service: str) -> str:
        """Return `ok` if a process of the service was heard within a second or so."""
        heard = self._heard.get(service)
        if heard is None:
            return "not heard yet"
        silent = asyncio.get_running_loop().time() - heard
        return OK if silent < HEARD_S else f"silent for {silent:.1f} s"


class NodeReadiness:
    """The node's checks. Questions that come close together share one answer."""

    def __init__(
        self, probes: Mapping[str, Probe], heartbeats: Heartbeats, services: tuple[str, ...]
    ) -> None:
        self._probes = probes
        self._heartbeats = heartbeats
        self._services = services
        self._probed: dict[str, str] = {}
        self._probed_at = float("-inf")
        self._lock = asyncio.Lock()

    async def checks(self) -> dict[str, str]:
        """Return each dependency with `ok` or what is wrong; it takes at most `CHECK_S`."""
        async with self._lock:
            if asyncio.get_running_loop().time() - self._probed_at > FRESH_S:
                found = await asyncio.gather(*(_ask(probe) for probe in self._probes.values()))
                self._probed = dict(zip(self._probes, found, strict=True))
                self._probed_at = asyncio.get_running_loop().time()
        return self._probed | {name: self._heartbeats.state(name) for name in self._services}


async def _ask(probe: Probe) -> str:
    try:
        async with asyncio.timeout(CHECK_S):
            await probe()
    except TimeoutError:
        return "no answer in time"
    except AgentOSError as error:
        return error.message
    return OK
