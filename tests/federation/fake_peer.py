"""A peer that a test writes the answers of: a real HTTP server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from agentos.domain.federation.peer import PeerEntry
from tests.federation.peering import entry

RUN = "run_01JD7K3V9YQ4M8R2T6W0X5Z1AB"
Answer = tuple[int, Any] | str


def run_of(run_id: str = RUN, **more: Any) -> dict[str, Any]:
    """Return a run as a peer answers it."""
    run = {
        "tenant_id": "tnt_a",
        "agent_id": "agt_a",
        "run_id": run_id,
        "status": "queued",
        "created_at": "2026-11-21T10:15:36.121Z",
        "events_url": f"/v1/runs/{run_id}/events",
    }
    return {"run": run | more}


def event(sequence: int, kind: str = "agentos.run.started", **more: Any) -> dict[str, Any]:
    """Return an envelope of the run."""
    inner = {
        "event_id": f"evt_{sequence:026d}",
        "sequence": sequence,
        "time": "2026-11-21T10:15:36.121Z",
        "type": kind,
        "tenant_id": "tnt_a",
        "agent_id": "agt_a",
        "run_id": RUN,
        "step_id": None,
        "trace": {"traceparent": f"00-{'4' * 32}-{'1' * 16}-01", "span_id": "1" * 16},
        "payload": {"status": "running", "worker_id": "w", "attempt": sequence},
    }
    return {"event": inner | more}


def final(sequence: int) -> dict[str, Any]:
    """Return the run's last event."""
    payload = {
        "status": "completed",
        "output": {"type": "text", "text": "done"},
        "summary": {"steps_total": 0, "tool_calls_total": 0, "model_calls_total": 0},
    }
    return event(sequence, "agentos.run.completed", payload=payload)


def frame(found: dict[str, Any], number: int | None = None) -> bytes:
    """Return an event as it goes over a stream."""
    sequence = found["event"]["sequence"] if number is None else number
    data = json.dumps(found, separators=(",", ":")).encode()
    return b"event: agentos.event\nid: %d\ndata: %b\n\n" % (sequence, data)


class FakePeer:
    """`answers` are what a run's creation gets, one after the other, the last for ever.

    An answer is a status with a body, `"cut"` for a connection that ends without one, or
    `"hang"` for none. `streams(after)` gives the frames of a run's stream, or a status.
    """

    def __init__(self) -> None:
        self.answers: list[Answer] = [(201, run_of())]
        self.capabilities: Any = None
        self.info: Any = None
        self.created: list[dict[str, Any]] = []
        self.canceled: list[dict[str, Any]] = []
        self.decided: list[dict[str, Any]] = []
        self.decision_answers: list[Answer] = [(200, run_of() | {"approval": {}})]
        self.headers: list[Mapping[str, str]] = []
        self.streams: Callable[[int], list[bytes] | tuple[int, Any]] = lambda after: []
        self.asked_after: list[int] = []
        self.cancel_answers: list[Answer] = [(200, run_of(status="canceled"))]
        self.hold = asyncio.Event()
        self.is_up = True

    async def _create(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(request.headers)
        self.created.append(await request.json())
        return await self._answer(self.answers, request)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        self.canceled.append(await request.json())
        return await self._answer(self.cancel_answers, request)

    async def _decide(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(request.headers)
        self.decided.append(await request.json())
        return await self._answer(self.decision_answers, request)

    async def _answer(self, answers: list[Answer], request: web.Request) -> web.StreamResponse:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer == "cut":
            assert request.transport is not None
            request.transport.close()
            return web.Response(status=500)
        if answer == "hang":
            await self.hold.wait()
            return web.Response(status=500)
        assert not isinstance(answer, str)
        status, body = answer
        headers = body.pop("headers", {}) if isinstance(body, dict) else {}
        if isinstance(body, bytes):
            return web.Response(status=status, body=body)
        return web.json_response(body, status=status, headers=headers)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        after = int(request.query.get("after_sequence", 0))
        self.asked_after.append(after)
        found = self.streams(after)
        if isinstance(found, tuple):
            return (
                web.json_response(found[1], status=found[0])
                if found[1]
                else web.Response(status=found[0])
            )
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in found:
            await response.write(piece)
        return response

    async def _peer(self, request: web.Request) -> web.Response:
        return self._about("peer", self.info)

    async def _capabilities(self, request: web.Request) -> web.Response:
        return self._about("capabilities", self.capabilities)

    def _about(self, name: str, what: Any) -> web.Response:
        if not self.is_up:
            return web.Response(status=503)
        return web.Response(status=404) if what is None else web.json_response({name: what})

    @asynccontextmanager
    async def serving(self, stack_id: str = "stk_fake", **more: Any) -> AsyncIterator[PeerEntry]:
        """Serve, and give the entry by which a node knows this peer."""
        app = web.Application()
        app.router.add_post("/v1/agents/{agent_id}/runs", self._create)
        app.router.add_post("/v1/runs/{run_id}:cancel", self._cancel)
        app.router.add_post("/v1/runs/{run_id}/approvals/{approval_id}", self._decide)
        app.router.add_get("/v1/runs/{run_id}/events", self._events)
        app.router.add_get("/v1/federation/peer", self._peer)
        app.router.add_get("/v1/federation/peer/capabilities", self._capabilities)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server = site._server
        assert server is not None
        port = server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        url = f"http://127.0.0.1:{port}"
        try:
            yield entry(stack_id, [url, url, url], **more)
        finally:
            self.hold.set()
            await runner.cleanup()
