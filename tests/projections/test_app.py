"""The projector as a process: heartbeats, kill -9 and back, a clean end."""

import asyncio
import json
import signal
import subprocess
import sys

from agentos.domain.subjects import ALL_HEARTBEATS
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.signals import NatsSignals
from agentos.infra.jetstream.streams import ensure_log
from agentos.projections.queries import make_pool
from tests.infra.embedded import EmbeddedNats, EmbeddedPostgres
from tests.projections.script import Move, Script
from tests.projections.test_runner import append, same_rows

START = (
    "import sys, uvloop; from agentos.projections.app import serve; "
    "uvloop.run(serve(*sys.argv[1:]))"
)
RUN = [Move(0, action, 0.2, "x", False) for action in (1, 0, 2, 3, 10)]


async def test_it_beats_survives_a_kill_and_ends_when_told(
    own_nats_server: EmbeddedNats, own_postgres_server: EmbeddedPostgres
) -> None:
    connection = await connect(own_nats_server.url, "test")
    await ensure_log(connection, expect_log=False)
    log, script = JetStreamLog(connection), Script().play(RUN)
    beats: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    stop = await NatsSignals(connection).subscribe(
        ALL_HEARTBEATS, lambda subject, data: beats.put_nowait((subject, data))
    )

    async def beat_at(process: "subprocess.Popen[bytes]", position: int) -> None:
        async with asyncio.timeout(15):
            while True:
                subject, data = await beats.get()
                beat = json.loads(data)
                if beat["pid"] == process.pid and beat["position"] >= position:
                    assert subject == f"hb.projector.{beat['worker_id']}"
                    assert beat["service"] == "projector"
                    return

    def start() -> "subprocess.Popen[bytes]":
        urls = [own_nats_server.url, own_postgres_server.dsn]
        return subprocess.Popen([sys.executable, "-c", START, *urls])

    process = start()
    try:
        await beat_at(process, await append(log, script.records[:2]))
        process.kill()
        process.wait(10)
        position = await append(log, script.records[2:])
        process = start()
        await beat_at(process, position)
        async with make_pool(own_postgres_server.dsn) as pool:
            await same_rows(pool, script.folded())
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0
    finally:
        process.kill()
        process.wait(10)
        await stop()
        await bounded_close(connection)
