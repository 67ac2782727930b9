"""A client that goes away, or reads too slowly, stops the call that is made for it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from agentos.gateways.http.sse import StreamLimits
from agentos.gateways.model_policy import streams
from tests.gateways.conftest import eventually
from tests.gateways.openai.conftest import ModelDoor
from tests.gateways.openai.pipeline import EchoPipeline

WAIT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "say so\nwait"}]}


async def within(event: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await event.wait()


async def test_a_whole_answer_nobody_waits_for(models: ModelDoor, openai: AsyncOpenAI) -> None:
    asking: list[Any] = [
        openai.chat.completions.create(**WAIT),
        openai.embeddings.create(model="m", input=["wait"]),
        openai.responses.create(model="m", input="wait"),
    ]
    for call in asking:
        models.pipeline.waiting.clear()
        models.pipeline.stopped.clear()
        task = asyncio.create_task(call)
        await within(models.pipeline.waiting)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await within(models.pipeline.stopped)
    await eventually(lambda: models.metrics.text().count(b'code="499"') >= 3)


async def test_a_stream_that_is_closed(models: ModelDoor, openai: AsyncOpenAI) -> None:
    chunks = await openai.chat.completions.create(stream=True, **WAIT)
    async for chunk in chunks:
        if chunk.choices[0].delta.content:
            break
    await within(models.pipeline.waiting)
    await chunks.close()
    await within(models.pipeline.stopped)


async def test_a_stream_of_events_that_is_closed(models: ModelDoor, openai: AsyncOpenAI) -> None:
    events = await openai.responses.create(model="m", input="say so\nwait", stream=True)
    await within(models.pipeline.waiting)
    await events.close()
    await within(models.pipeline.stopped)


async def test_a_stream_that_had_not_begun(models: ModelDoor, openai: AsyncOpenAI) -> None:
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "wait"}]}
    task = asyncio.create_task(openai.chat.completions.create(stream=True, **body))
    await within(models.pipeline.waiting)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await within(models.pipeline.stopped)


async def test_the_connection_serves_on(models: ModelDoor, openai: AsyncOpenAI) -> None:
    """A client that leaves later, between calls, stops nothing and nobody."""
    for _ in range(3):
        await openai.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}]
        )
    await openai.close()
    assert len(models.pipeline.asked) == 3


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = StreamLimits(
        max_bytes=2_000_000, kernel_bytes=4096, write_timeout_s=0.3, sweep_s=0.05, keepalive_s=0.1
    )
    monkeypatch.setattr(streams, "LIMITS", limits)


async def reader_of(models: ModelDoor, text: str) -> tuple[asyncio.StreamReader, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", models.port, limit=1024)
    body = (
        b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "%b"}]}'
        % text.encode().replace(b"\n", b"\\n")
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {models.key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    return reader, writer


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("pieces", [1500, 5000], ids=["what we hold", "more than we hold"])
async def test_a_reader_that_takes_nothing_is_cut_off(models: ModelDoor, pieces: int) -> None:
    _, writer = await reader_of(models, f"flood {pieces}\nwait")  # a kilobyte each
    await within(models.pipeline.waiting)
    await within(models.pipeline.stopped)
    await eventually(lambda: not models.server.server_state.connections)
    writer.close()


@pytest.mark.usefixtures("impatient")
async def test_a_silent_model_s_stream_is_kept_alive(models: ModelDoor) -> None:
    reader, writer = await reader_of(models, "say so\nwait")
    async with asyncio.timeout(5):
        await reader.readuntil(b": keepalive\n\n")
    models.pipeline.go_on.set()
    async with asyncio.timeout(5):
        await reader.readuntil(b"data: [DONE]\n\n")
    writer.close()


@pytest.fixture
async def stopping() -> AsyncIterator[ModelDoor]:
    door = ModelDoor(EchoPipeline())
    await door.start()
    yield door
    await door.http.close()


async def test_a_door_that_closes_ends_a_stream_with_a_reason(stopping: ModelDoor) -> None:
    stopping.server.config.timeout_graceful_shutdown = 0
    reader, writer = await reader_of(stopping, "say so\nwait")
    await within(stopping.pipeline.waiting)
    stopping.server.should_exit = True
    async with asyncio.timeout(5):
        raw = await reader.read()
        await stopping.task
    assert b'"code":"dependency_unavailable"' in raw
    assert b"[DONE]" not in raw
    writer.close()
