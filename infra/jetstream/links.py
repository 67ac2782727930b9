"""The two ends of a link: the stream that a peer takes from, and what came from a peer."""

import asyncio
import base64
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote, urlsplit

import orjson

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.federation.link import Given, Taken
from agentos.domain.ids import is_named_id
from agentos.domain.subjects import StreamRef
from agentos.infra import nats_links
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection, bounded_close, connect
from agentos.infra.jetstream.pull import HEARTBEAT, NS, Delivered, Pull
from agentos.infra.jetstream.wire import parse_headers
from agentos.infra.nats_links import EVENTS, SUBJECTS

CONSUMER: Final = "copies"
BATCH: Final = 512
ACK: Final = b"+ACK"
ACK_WAIT_S: Final = 10
MAX_IN_HAND: Final = 20_000
CONNECT_S: Final = 3.0
PUT_S: Final = 5.0
HUB_S: Final = 1.0
FRESH_S: Final = 3.0
KICK_S: Final = 3.0
OTHER_CONFIG: Final = 10058
POSITION: Final = "Agentos-Position"


def url_of(nats_url: str, user: tuple[str, str]) -> str:
    """Return the URL of another account on the same broker."""
    place = urlsplit(nats_url.split(",", maxsplit=1)[0].strip())
    return f"{place.scheme}://{user[0]}:{quote(user[1])}@{place.hostname}:{place.port or 4222}"


class _End:
    """One connection, opened when it is first needed, and the stream `EVENTS` behind it."""

    def __init__(self, stack_id: str, url: str, config: dict[str, Any]) -> None:
        self.stack_id = stack_id
        self._url = url
        self._config = config
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()

    async def _opened(self) -> Connection:
        """Return the connection, with the stream made; `DependencyUnavailableError`.

        Who comes while it is being opened gets the same one.
        """
        async with self._opening:
            if self._connection is None:
                self._connection = await self._open()
            return self._connection

    async def _open(self) -> Connection:
        connection = await connect(self._url, f"agentos-{self.stack_id}", timeout=CONNECT_S)
        try:
            await api.repeated(connection, lambda: self._make(connection))
        except BaseException:
            await bounded_close(connection)
            raise
        return connection

    async def _make(self, connection: Connection) -> None:
        """Make the stream; one that is there from another version is brought to what it is now."""
        try:
            await api.call(connection, f"STREAM.CREATE.{EVENTS}", self._config)
        except api.ApiError as exc:
            if exc.code != OTHER_CONFIG:
                raise
            await api.call(connection, f"STREAM.UPDATE.{EVENTS}", self._config)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            await bounded_close(self._connection)
            self._connection = None


class JetStreamGiven(_End):
    """The stream from which one peer takes the events of its runs; as `Outbox`."""

    def __init__(self, stack_id: str, url: str) -> None:
        super().__init__(stack_id, url, nats_links.given_stream())

    async def position(self) -> int | None:
        """Return the log position of what was given last, `None` when the stream is empty."""
        connection = await self._opened()

        async def last() -> dict[str, Any] | None:
            try:
                wanted = {"last_by_subj": f"{SUBJECTS}.>"}
                answer = await api.call(connection, f"STREAM.MSG.GET.{EVENTS}", wanted)
            except api.ApiError as exc:
                if exc.code == api.NO_MESSAGE:
                    return None
                raise
            found: dict[str, Any] = answer["message"]
            return found

        message = await api.repeated(connection, last)
        if message is None:
            return None
        return int(parse_headers(base64.b64decode(message["hdrs"]))[POSITION])

    async def put(self, given: Sequence[Given]) -> None:
        """Add commits in order, each once; `DependencyUnavailableError`."""
        connection = await self._opened()
        await asyncio.gather(*(self._put(connection, one) for one in given))

    async def _put(self, connection: Connection, given: Given) -> None:
        subject = f"{SUBJECTS}.{given.ref.tenant_id}.{given.ref.aggregate_id}"
        headers = (
            f"NATS/1.0\r\nNats-Msg-Id: {given.position}\r\n{POSITION}: {given.position}\r\n"
            f"Agentos-First: {given.first_sequence}\r\n\r\n"
        ).encode()

        async def put() -> None:
            reply = await connection.ask(subject, given.body, headers=headers, timeout=PUT_S)
            if error := orjson.loads(reply.data).get("error"):
                raise api.ApiError(error)

        await api.repeated(connection, put)


class JetStreamTaken(_End):
    """What came of this node's runs at one peer; as `Inbox`.

    The broker copies it over the leaf node. It gives the source up for long after a cut, so it
    is set to it again as soon as the peer's broker answers: it goes on behind what it has.
    """

    def __init__(self, stack_id: str, url: str) -> None:
        super().__init__(stack_id, url, nats_links.taken_stream(stack_id))
        self._pull: Pull | None = None
        self._kicked_at = 0.0

    async def why_down(self) -> str:
        """Return why the link brings nothing at present; empty when it does."""
        try:
            connection = await self._opened()
        except DependencyUnavailableError as error:
            return error.message
        if not await self._hub_answers(connection):
            return "the peer's broker does not answer through the leaf node"
        try:
            info = await api.call(connection, f"STREAM.INFO.{EVENTS}")
        except (api.ApiError, *api.UNREACHED) as exc:
            if isinstance(exc, api.ApiError) and exc.code == api.STREAM_NOT_FOUND:
                await self.close()  # the next look makes it anew
            return f"this node's broker says nothing of the stream: {api.describe(exc)}"
        active = min((s.get("active", -1) for s in info.get("sources", ())), default=-1)
        if 0 <= active <= FRESH_S * NS:
            return ""
        await self._kick(connection)
        return "the stream does not follow the peer's"

    async def _hub_answers(self, connection: Connection) -> bool:
        subject = f"{nats_links.api_of(self.stack_id)}.API.STREAM.INFO.{EVENTS}"
        try:
            reply = await connection.ask(subject, b"", timeout=HUB_S)
        except api.UNREACHED:
            return False
        try:
            answer = orjson.loads(reply.data)
        except orjson.JSONDecodeError:
            return False
        return isinstance(answer, dict) and "error" not in answer

    async def _kick(self, connection: Connection) -> None:
        if time.monotonic() - self._kicked_at < KICK_S:
            return
        self._kicked_at = time.monotonic()
        bare = {name: value for name, value in self._config.items() if name != "sources"}
        try:
            for config in (bare, self._config):
                await api.call(connection, f"STREAM.UPDATE.{EVENTS}", config)
        except (api.ApiError, *api.UNREACHED):
            return  # the next look tries again

    async def take(self) -> list[Taken]:
        """Return what has come, at least one commit; `DependencyUnavailableError`."""
        while True:
            pull = await self._pulling()
            if pull.outstanding + pull.buffered < BATCH // 2:
                pull.want(BATCH)
            await pull.wait(HEARTBEAT)
            if found := pull.take():
                return [taken for message in found if (taken := self._read(message)) is not None]
            if pull.silent():
                pull.broken = True

    async def _pulling(self) -> Pull:
        if self._pull is not None and (self._pull.buffered or not self._pull.broken):
            return self._pull
        if self._pull is not None:
            self._pull.close()
            self._pull = None
        connection = await self._opened()
        config = {
            "durable_name": CONSUMER,
            "ack_policy": "explicit",
            "ack_wait": ACK_WAIT_S * NS,
            "max_ack_pending": MAX_IN_HAND,
            "deliver_policy": "all",
        }
        body = {"stream_name": EVENTS, "config": config}
        await api.repeated(
            connection, lambda: api.call(connection, f"CONSUMER.CREATE.{EVENTS}.{CONSUMER}", body)
        )
        pull = Pull(connection, EVENTS, CONSUMER)
        await pull.open()
        self._pull = pull
        return pull

    def _read(self, message: Delivered) -> Taken | None:
        """Return a commit; what is none of a run is struck off."""
        try:
            parts = message.subject.decode().split(".")
            first = parse_headers(message.headers).get("Agentos-First", "")
        except UnicodeDecodeError:
            self.done(message.reply)
            return None
        fits = len(parts) == 3 and all(map(is_named_id, parts[1:]))
        if not (fits and first.isascii() and first.isdigit() and len(first) < 19):
            self.done(message.reply)
            return None
        ref = StreamRef(parts[1], "run", parts[2])
        return Taken(ref, int(first), tuple(message.data.split(b"\n")), message.reply)

    def done(self, token: bytes) -> None:
        """Strike off what was copied, or is not wanted; lost, it comes once more."""
        if self._connection is not None and self._connection.is_connected:
            self._connection.post(token.decode(), ACK)

    async def close(self) -> None:
        """Let go of the connection; what was not struck off comes to the next process."""
        if self._pull is not None:
            self._pull.close()
            self._pull = None
        await super().close()
