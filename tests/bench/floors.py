"""The floors: bare technology doing the innermost part of a row, in the same run."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats

from agentos.infra.node.ports import pick_port
from tests.bench.load import Job, generate, post_request, with_length
from tests.bench.node import BODY, ROOT
from tests.infra.embedded import EmbeddedNats

IN_FLIGHT = 200


@asynccontextmanager
async def bare_app(factory: str) -> AsyncIterator[int]:
    """Serve an application of `floor_apps` with uvicorn, uvloop and httptools; gives its port."""
    port = pick_port()
    server = ["uvicorn", f"tests.bench.floor_apps:{factory}", "--factory", "--port", str(port)]
    lean = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error"]
    argv = [sys.executable, "-m", *server, *lean]
    process = subprocess.Popen(argv, cwd=ROOT)  # noqa: ASYNC220 - starts at once
    try:
        await listening(port)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


async def listening(port: int, within: float = 20.0) -> None:
    """Wait until a server accepts connections."""
    async with asyncio.timeout(within):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            except OSError:
                await asyncio.sleep(0.02)


async def bare_echo(seconds: float, runs: int) -> tuple[list[float], list[float]]:
    """Return requests a second at 32 clients, and the p50 in ms of one client alone."""
    request = with_length(post_request("/v1/agents/agt_x/runs", BODY, "Bearer none"), "k")
    many, alone = [], []
    async with bare_app("create_echo") as port:
        for _ in range(runs):
            job = Job(port=port, request=request, clients=32, seconds=seconds, warm_up=0.5)
            many.append((await generate(job)).rate)
            job = Job(port=port, request=request, clients=1, count=500)
            latencies = sorted((await generate(job)).latencies)
            alone.append(latencies[len(latencies) // 2] * 1000)
    return many, alone


async def bare_appends(
    size: int, seconds: float, runs: int
) -> tuple[list[float], list[float], list[float]]:
    """Append `size` bytes to a JetStream file stream that fsyncs before it acknowledges.

    Returns appends a second with 200 in flight, one after the other, and the p50 in ms of the
    latter. nats-py's own `js.publish`, a subject of its own for each message.
    """
    server = EmbeddedNats(sync_always=True)
    server.start()
    client = await nats.connect(server.url)
    try:
        js = client.jetstream()
        await js.add_stream(name="FLOOR", subjects=["floor.>"])
        flight, serial, p50 = [], [], []
        for _ in range(runs):
            flight.append(await _in_flight(js, size, seconds))
            rate, middle = await _serial(js, size, seconds)
            serial.append(rate)
            p50.append(middle * 1000)
        return flight, serial, p50
    finally:
        await client.close()
        server.remove()


async def _in_flight(js: nats.js.JetStreamContext, size: int, seconds: float) -> float:
    data, done, began = b"x" * size, 0, time.perf_counter()

    async def one(lane: int) -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            await js.publish(f"floor.{lane}.{done}", data, timeout=10)
            done += 1

    await asyncio.gather(*(one(lane) for lane in range(IN_FLIGHT)))
    return done / (time.perf_counter() - began)


async def _serial(js: nats.js.JetStreamContext, size: int, seconds: float) -> tuple[float, float]:
    times: list[float] = []
    data, began = b"x" * size, time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        await js.publish(f"floor.serial.{len(times)}", data, timeout=10)
        times.append(time.perf_counter() - now)
    return len(times) / (now - began), sorted(times)[len(times) // 2]
