"""Clients that live through outages: they retry by key, resume streams, and note every answer."""

import asyncio
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from tests.journeys.real_node import FINAL, Client

TEMPORARY: Final = {(503, "dependency_unavailable"), (504, "timeout")}
PAUSE_S: Final = 0.05


@dataclass
class Ledger:
    """What the clients were told: it must all be true at the end."""

    runs: dict[str, str] = field(default_factory=dict)  # idempotency key → run id
    ended: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # run id → its events
    hiccups: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class SteadyClient:
    """Starts run after run of one text; each is followed to its end by stream or by wait."""

    def __init__(self, client: Client, ledger: Ledger, agent: str, text: str) -> None:
        self._client, self._ledger = client, ledger
        self._agent, self._text = agent, text
        self.stop = asyncio.Event()

    async def run(self, name: str) -> None:
        """Work until `stop` is set, and see the run in hand through."""
        turn = 0
        while not self.stop.is_set():
            turn += 1
            await self.one(f"{name}-{turn}-{uuid.uuid4().hex[:8]}", by_wait=turn % 3 == 0)

    async def one(self, key: str, *, by_wait: bool = False) -> str:
        """Start a run by key and follow it to its end; returns its id."""
        run_id = self._ledger.runs[key] = await self._start(key)
        if by_wait:
            await self._await_end(run_id)
        self._ledger.ended[run_id] = await self._follow(run_id)
        return run_id

    async def _start(self, key: str) -> str:
        body = {"input": {"type": "text", "text": self._text}, "idempotency_key": key}
        while True:
            found = await self._ask("POST", f"/v1/agents/{self._agent}/runs", json=body)
            if found is not None:
                run_id: str = found["run"]["run_id"]
                return run_id
            await asyncio.sleep(PAUSE_S)

    async def _await_end(self, run_id: str) -> None:
        while True:
            found = await self._ask("GET", f"/v1/runs/{run_id}/wait?timeout_ms=20000")
            if found is not None and found["run"]["status"] in FINAL:
                return
            await asyncio.sleep(PAUSE_S)

    async def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any] | None:
        """Make a call; `None` for an answer that a client may try again after."""
        try:
            status, answer = await self._client.ask(method, path, **more)
        except (aiohttp.ClientError, TimeoutError) as error:
            self._ledger.hiccups[type(error).__name__] += 1
            return None
        if status < 300:
            return answer
        code = answer.get("error", {}).get("code")
        self._ledger.hiccups[f"{status} {code}"] += 1
        if (status, code) not in TEMPORARY:
            self._ledger.wrong.append(f"{method} {path}: {status} {answer}")
        return None

    async def _follow(self, run_id: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while not events or events[-1]["payload"].get("status") not in FINAL:
            await self._read_on(run_id, events)
        return events

    async def _read_on(self, run_id: str, events: list[dict[str, Any]]) -> None:
        """Read the stream behind what is there, as far as it goes."""
        after = events[-1]["sequence"] if events else 0
        path = f"/v1/runs/{run_id}/events?after_sequence={after}"
        limits = aiohttp.ClientTimeout(total=None, sock_read=20)
        try:
            async with self._client.http.get(path, timeout=limits) as answer:
                if answer.status != 200:
                    await self._refused(path, answer)
                    return
                async for name, data in self._client.read_frames(answer):
                    if name == "agentos.event":
                        events.append(data["event"])
                    elif data["error"]["code"] != "dependency_unavailable":
                        self._ledger.wrong.append(f"{path}: {data}")
        except (aiohttp.ClientError, TimeoutError) as error:
            self._ledger.hiccups[f"stream {type(error).__name__}"] += 1
            await asyncio.sleep(PAUSE_S)

    async def _refused(self, path: str, answer: aiohttp.ClientResponse) -> None:
        if answer.status == 204:
            self._ledger.wrong.append(f"{path}: 204 before the final event was shown")
            return
        code = (await answer.json())["error"]["code"]
        self._ledger.hiccups[f"stream {answer.status} {code}"] += 1
        if (answer.status, code) not in TEMPORARY:
            self._ledger.wrong.append(f"{path}: {answer.status} {code}")
        await asyncio.sleep(PAUSE_S)
