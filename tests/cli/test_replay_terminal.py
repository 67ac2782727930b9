"""`agentos replay run --step` in a real terminal: keys as they are pressed, the screen put back."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

from agentos.domain.replay.capsule import agent_line, run_lines
from agentos.infra.capsules.keys import node_signer
from agentos.infra.capsules.writer import CapsuleWriter
from tests.domain.replay.recorder import DEFINITION, kinds_of_runs

ABOUT = {
    "capsule_id": "cap_1",
    "created_at": "2026-11-25T00:00:00.000Z",
    "node": "stk_a",
    "agentos_version": "0.1.0",
    "redacted_by": None,
}


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, *argv: str, cwd: Path) -> None:
        self.fd, theirs = pty.openpty()
        env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "32"}
        self.process = subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=env
        )
        os.close(theirs)
        self.shown = ""

    def press(self, keys: bytes) -> None:
        """Type."""
        self.shown = ""
        os.write(self.fd, keys)

    def see(self, text: str, within: float = 20.0) -> None:
        """Wait until a text was shown since the last key."""
        until = time.monotonic() + within
        while text not in self.shown:
            left = until - time.monotonic()
            assert left > 0, self.shown[-2000:]
            if select.select([self.fd], [], [], left)[0]:
                try:
                    self.shown += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:  # the program has ended
                    assert text in self.shown, self.shown[-2000:]

    def end(self) -> int:
        """Wait for its end; return its exit code."""
        code = self.process.wait(20)
        os.close(self.fd)
        return code


def test_walking_there_and_back(tmp_path: Path) -> None:
    made = kinds_of_runs()["tools_in_parallel"]
    with CapsuleWriter(tmp_path / "a.capsule", node_signer(tmp_path), ABOUT) as writer:
        head, block = run_lines(made.records, "agt_a", None)
        writer.add([agent_line("tnt_a", "agt_a", DEFINITION, str), block], events=head.events)
    agentos = str(Path(sys.executable).with_name("agentos"))
    args = ["replay", "run", "--capsule", "a.capsule", "--step"]
    terminal = Terminal(agentos, *args, cwd=tmp_path)
    try:
        terminal.see("1 agentos.run.created")
        for keys, shown in (
            (b"n", "2 agentos.run.started"),
            (b"\x1b[C", "3 agentos.run.step.started"),
            (b"p", "2 agentos.run.started"),
            (b"g14\r", "14 agentos.run.step.completed"),
            (b"\x1b[A", "13 agentos.tool.call.completed"),
            (b"G", "31 agentos.run.completed"),
        ):
            terminal.press(keys)
            terminal.see(shown)
        terminal.press(b"q")
        terminal.see("left at event 31 of 31")
        assert terminal.end() == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
