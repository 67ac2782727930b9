"""Tools that write down every call of them: for crash tests with real processes, never in prod.

Each appends its idempotency key as one line to `<directory>/<nature>.calls` and then sleeps,
so that a process can be killed between the effect and its result.
"""

import asyncio
import os
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from agentos.domain.auth import AuthContext
from agentos.domain.ports import ToolCall, ToolNature
from agentos.infra.tools.tool import Arguments, Tool, make_tool

PROBES: Final[dict[str, ToolNature]] = {
    "idempotent": "idempotent",
    "check": "check",
    "once": "at_most_once",
}


class ProbeArguments(Arguments):
    """How long to go on after the effect."""

    sleep_ms: int = Field(default=0, ge=0, le=600_000)
    label: str = Field(default="", max_length=256)


def probe_tools(directory: Path) -> list[Tool[ProbeArguments]]:
    """Return `tool.probe.idempotent`, `.check` and `.once`, which write into `directory`."""
    return [_probe(name, nature, directory) for name, nature in PROBES.items()]


def calls_file(directory: Path, name: str) -> Path:
    """Return the file with one line per call of `tool.probe.<name>`."""
    return directory / f"{name}.calls"


def _probe(name: str, nature: ToolNature, directory: Path) -> Tool[ProbeArguments]:
    path = calls_file(directory, name)

    def output(call: ToolCall, arguments: ProbeArguments) -> dict[str, Any]:
        return {"idempotency_key": call.idempotency_key, "label": arguments.label}

    async def run(auth: AuthContext, call: ToolCall, arguments: ProbeArguments) -> Any:
        await asyncio.to_thread(_append, path, call.idempotency_key)
        await asyncio.sleep(arguments.sleep_ms / 1000)
        return output(call, arguments)

    async def check(auth: AuthContext, call: ToolCall, arguments: ProbeArguments) -> Any:
        made = call.idempotency_key in await asyncio.to_thread(_lines, path)
        return output(call, arguments) if made else None

    return make_tool(
        f"tool.probe.{name}",
        "Writes down that it was called.",
        ProbeArguments,
        run,
        nature=nature,
        check=check if nature == "check" else None,
        timeout_ms=600_000,
    )


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, f"{line}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
