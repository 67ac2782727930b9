"""`agentos audit tail` in a shell: what it prints, across a restart, and how it ends."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.conftest import Door, token
from tests.gateways.test_audit_events import write

AGENTOS = Path(sys.executable).with_name("agentos")
Process = asyncio.subprocess.Process


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A gateway that can be closed and opened again on its ports."""
    opened = Door()
    await opened.start()
    yield opened
    await opened.close()


@asynccontextmanager
async def tailing(
    door: Door, directory: Path, *words: str, **streams: Any
) -> AsyncIterator[Process]:
    """Start the command as a remote client's shell does."""
    ours = {"AGENTOS_TOKEN": token(roles=["tenant_admin"]), "AGENTOS_DATA_DIR": str(directory)}
    others = {k: v for k, v in os.environ.items() if not k.startswith("AGENTOS_")}
    pipes: dict[str, Any] = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(
        str(AGENTOS), "audit", "tail", "--url", door.urls[0], *words,
        env=others | ours, cwd=directory, preexec_fn=_take_interrupts, **(pipes | streams),
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _take_interrupts() -> None:
    """Have Ctrl-C heard although this test's own shell may have put it into the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def is_listening(door: Door) -> None:
    """Wait until the command's stream is open and live."""
    streams = door.gateway.streams
    async with asyncio.timeout(60):
        while not (len(streams) == 1 and all(s.live for s in streams._open)):  # noqa: ASYNC110 - no event of its own
            await asyncio.sleep(0.02)


async def lines(process: Process, count: int) -> list[str]:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return [(await process.stdout.readline()).decode().rstrip("\n") for _ in range(count)]


async def said(process: Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(60):
        return (await process.stderr.read()).decode()


async def test_records_a_line_across_a_restart_until_ctrl_c(door: Door, tmp_path: Path) -> None:
    await write(door, "before")
    async with tailing(door, tmp_path, "--json", "--since", "1h") as process:
        await is_listening(door)
        await write(door, "one", "two")
        found = [json.loads(line) for line in await lines(process, 3)]
        assert [r["resource"] for r in found] == ["before", "one", "two"]
        assert [r["sequence"] for r in found] == [1, 2, 3]
        await door.close()
        await write(door, "while it was away")
        assert process.stderr is not None
        async with asyncio.timeout(60):
            assert b"waiting for it" in await process.stderr.readline()
        await door.start()
        await is_listening(door)
        await write(door, "behind it")
        found = [json.loads(line) for line in await lines(process, 2)]
        assert [r["resource"] for r in found] == ["while it was away", "behind it"]
        process.send_signal(signal.SIGINT)
        text = await said(process)
        assert await process.wait() == 130, text
    assert "Traceback" not in text
    assert "the node is back" in text


async def test_nothing_is_missed_that_comes_before_its_first_record(
    door: Door, tmp_path: Path
) -> None:
    async with tailing(door, tmp_path, "--json", "--last", "0") as process:
        await is_listening(door)
        await door.close()
        await write(door, "while it was away")
        await door.start()
        (line,) = await lines(process, 1)
        assert json.loads(line)["resource"] == "while it was away"


async def test_a_closed_pipe_ends_it_quietly(door: Door, tmp_path: Path) -> None:
    read, write_end = os.pipe()
    async with tailing(door, tmp_path, stdout=write_end) as process:
        os.close(write_end)
        await is_listening(door)
        os.close(read)
        await write(door, "nobody reads this")
        text = await said(process)
        assert (await process.wait(), text) == (0, "")


async def test_for_people_and_narrowed(door: Door, tmp_path: Path) -> None:
    async with tailing(door, tmp_path, "--action", "keys.issue") as process:
        await is_listening(door)
        await write(door, "agt_a", action="agents.register")
        await write(door, "key_\x1b[31ma", action="keys.issue")
        (line,) = await lines(process, 1)
    assert line.split()[1:] == ["2", "allowed", "keys.issue", "key_\ufffd[31ma", "usr_a"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--tenant", "tnt_x"), 1, "error: not_found"),
        (("--since", "yesterday"), 2, "--since yesterday"),
        (("--outcome", "maybe"), 1, "error: invalid_request"),
        (("--last", "-1"), 2, "--last"),
    ],
)
async def test_what_cannot_be_followed_is_said(
    door: Door, tmp_path: Path, words: tuple[str, ...], code: int, text: str
) -> None:
    async with tailing(door, tmp_path, *words) as process:
        assert text in await said(process)
        assert await process.wait() == code


async def test_a_node_that_was_never_there_is_not_waited_for(door: Door, tmp_path: Path) -> None:
    await door.close()
    async with tailing(door, tmp_path) as process:
        assert "cannot be reached" in await said(process)
        assert await process.wait() == 3
    await door.start()


async def test_who_is_shut_out_hears_it(tmp_path: Path) -> None:
    door = Door(tenants=("tnt_a",))
    await door.start()
    async with tailing(door, tmp_path) as process:
        await is_listening(door)
        await door.change_tenant("tnt_a", "disable", "drain")
        assert "tenant_disabled" in await said(process)
        assert await process.wait() == 1
    await door.close()


async def test_the_shell_completes_it(tmp_path: Path) -> None:
    async def completed(words: str) -> list[str]:
        given = {"_AGENTOS_COMPLETE": "complete_bash", "COMP_WORDS": words}
        process = await asyncio.create_subprocess_exec(
            str(AGENTOS), env=os.environ | given | {"COMP_CWORD": str(words.count(" "))},
            stdout=asyncio.subprocess.PIPE, cwd=tmp_path,
        )  # fmt: skip
        out, _ = await process.communicate()
        return out.decode().split()

    assert {"tail", "query", "export", "verify"} <= set(await completed("agentos audit "))
    assert {"--tenant", "--since", "--json"} <= set(await completed("agentos audit tail --"))
    assert "audit" in await completed("agentos au")
