"""The load generator: a process of its own, raw sockets, keep-alive, requests made beforehand.

It shares the cores with what it measures, so it does as little as can be: one callback a
response, no header dictionary, no JSON. `python -m tests.bench.load` reads a `Job` as JSON on
standard input and prints its `Outcome` as JSON.
"""

import asyncio
import json
import os
import re
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
CHUNKED: Final = re.compile(rb"(?i)\r\ntransfer-encoding: chunked")
RUN_ID: Final = re.compile(rb'"run_id":"(run_[0-9A-Z]{26})"')
FIRST_TEXT: Final = re.compile(rb'"content": ?"[^"]')
KEY: Final = "#KEY#"
LAST_CHUNK: Final = b"0\r\n\r\n"


@dataclass
class Job:
    """What to do: `clients` loops of one request after the other.

    With `rate` (requests a second, of all clients) they keep to it: nobody sends earlier.

    `kind`: `post` sends the request; `whole` sends it and waits for the run to end; `stream`
    sends it and reads the answer's events to the last one; `first` does so too, but its time is
    that of the first text of a model. It ends after `count` requests, or `seconds` after the
    first `warm_up` seconds, which count nothing.
    """

    port: int
    request: str
    kind: str = "post"
    clients: int = 32
    seconds: float = 0.0
    warm_up: float = 0.0
    count: int = 0
    rate: float = 0.0
    key: str = "k"
    authorization: str = ""
    expected: int = 201
    host: str = "127.0.0.1"


@dataclass
class Outcome:
    """What came of it. `latencies` in seconds, of requests begun behind the warm-up."""

    seconds: float = 0.0
    began: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests (or runs) a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0


class Loop(asyncio.Protocol):
    """One client: a connection, one request in flight."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._buffer = bytearray()
        self._started = 0.0
        self._waiting_run = b""
        self._first_at = 0.0
        self._transport: asyncio.Transport
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; the load opens another connection if there is more to do."""
        if not self.done.done():
            self.done.set_result(None)

    def _next(self) -> None:
        request = self._load.take()
        if request is None:
            self._transport.close()
            return
        if (pause := self._load.pause()) > 0:
            asyncio.get_running_loop().call_later(pause, self._send, request)
        else:
            self._send(request)

    def _send(self, request: bytes) -> None:
        self._waiting_run = b""
        self._first_at = 0.0
        self._started = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Collect until the response is whole."""
        self._buffer += data
        if not self._first_at and FIRST_TEXT.search(self._buffer):
            self._first_at = time.perf_counter()
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[: end + 2])
        if CHUNKED.search(head):
            if self._buffer.endswith(LAST_CHUNK):
                self._answered(head, bytes(self._buffer[end + 4 :]))
            return
        length = LENGTH.search(head)
        size = int(length[1]) if length else 0
        if len(self._buffer) >= end + 4 + size:
            self._answered(head, bytes(self._buffer[end + 4 : end + 4 + size]))

    def _answered(self, head: bytes, body: bytes) -> None:
        self._buffer.clear()
        status = int(head[9:12])
        job = self._load.job
        if job.kind == "whole":
            if not self._waiting_run and status in (200, 201):
                if found := RUN_ID.search(body):
                    self._waiting_run = found[1]
                    self._transport.write(self._load.wait_for(found[1]))
                    return
            elif b'"status":"completed"' in body:
                status = job.expected
            elif b'"status":"queued"' in body or b'"status":"running"' in body:
                self._transport.write(self._load.wait_for(self._waiting_run))
                return
            else:
                status = -status
        elif job.kind == "stream" and status == job.expected and b"run.completed" not in body:
            status = -status
        self._load.note(self._started, status, body, self._first_at if job.kind == "first" else 0.0)
        self._next()


class Load:
    """All clients of a job, and what they measured."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.outcome = Outcome()
        self._parts = tuple(part.encode() for part in job.request.split(KEY))
        self._number = 0
        self._began = self._from = self._until = 0.0
        self._counted: Counter[int] = Counter()
        self._wait = (
            b"GET /v1/runs/%b/wait?timeout_ms=60000 HTTP/1.1\r\nHost: bench\r\n"
            b"Authorization: " + job.authorization.encode() + b"\r\n\r\n"
        )

    async def run(self) -> Outcome:
        """Do the job."""
        began = self._began = time.perf_counter()
        self.outcome.began = time.monotonic()
        self._from = began + self.job.warm_up
        self._until = self._from + self.job.seconds if self.job.seconds else float("inf")
        await asyncio.gather(*(self._client() for _ in range(self.job.clients)))
        ended = min(time.perf_counter(), self._until)
        self.outcome.seconds = ended - self._from
        self.outcome.statuses = {str(k): v for k, v in self._counted.items()}
        return self.outcome

    async def _client(self) -> None:
        loop = asyncio.get_running_loop()
        while self._more():
            _, client = await loop.create_connection(
                lambda: Loop(self), self.job.host, self.job.port
            )
            await client.done

    def _more(self) -> bool:
        if self.job.count and self._number >= self.job.count:
            return False
        return time.perf_counter() < self._until and len(self.outcome.unexpected) < 100

    def take(self) -> bytes | None:
        """Return the next request, with a key of its own; `None` when there is no more to do."""
        if not self._more():
            return None
        self._number += 1
        return f"{self.job.key}-{self._number:010d}".encode().join(self._parts)

    def pause(self) -> float:
        """Return the seconds until the request that was taken last is due."""
        if not self.job.rate:
            return 0.0
        return self._began + self._number / self.job.rate - time.perf_counter()

    def wait_for(self, run_id: bytes) -> bytes:
        """Return the request that waits for a run's end."""
        return self._wait % run_id

    def note(self, started: float, status: int, body: bytes, ended: float = 0.0) -> None:
        """Count one response."""
        now = ended or time.perf_counter()
        if status != self.job.expected and len(self.outcome.unexpected) < 100:
            self.outcome.unexpected.append(f"{status} {body[:300].decode(errors='replace')}")
        if started >= self._from and now <= self._until:
            self._counted[status] += 1
            if status == self.job.expected:
                self.outcome.latencies.append(now - started)


class LoadError(Exception):
    """The load generator did not do its job."""


async def generate(job: Job) -> Outcome:
    """Run a job in a process of its own and return what it measured.

    Raises `LoadError` when it fails, or when an answer was not the expected one.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        limit = job.seconds + job.warm_up + 300
        async with asyncio.timeout(limit):
            out, _ = await process.communicate(json.dumps(asdict(job)).encode())
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode != 0:
        raise LoadError(f"the load generator ended with {process.returncode}")
    outcome = Outcome(**json.loads(out))
    if outcome.unexpected:
        raise LoadError(f"{outcome.statuses}; {outcome.unexpected[:2]}")
    return outcome


def post_request(path: str, body: dict[str, Any], authorization: str) -> str:
    """Return a POST with its key left open; the keys of a job are all equally long."""
    text = json.dumps({**body, "idempotency_key": KEY}, separators=(",", ":"))
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Authorization: {authorization}\r\nContent-Length: #LENGTH#\r\n\r\n{text}"
    )


def with_length(request: str, key: str) -> str:
    """Return the request with the length of its body for keys `<key>-<10 digits>`."""
    body = request.partition("\r\n\r\n")[2]
    grown = len(body.encode()) - len(KEY) + len(key) + 11
    return request.replace("#LENGTH#", str(grown), 1)


def main() -> None:
    """Read a job, do it, print the outcome."""
    import uvloop

    job = Job(**json.loads(sys.stdin.read()))

    async def work() -> Outcome:
        return await Load(job).run()

    out = json.dumps(asdict(uvloop.run(work()))).encode()
    while out:  # unbuffered, as some environments have it, a pipe takes a part
        out = out[os.write(1, out) :]


if __name__ == "__main__":
    main()
