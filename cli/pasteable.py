"""How the commands print commands: as the user called this one, and naming the node."""

import shlex
import shutil
import sys
from contextvars import ContextVar
from pathlib import Path

from agentos.infra.node.next_step import as_pasted
from agentos.infra.settings import Settings

# The node that this command is about; errors that end it are told when its frames are gone.
_node: ContextVar[Settings | None] = ContextVar("node", default=None)


def about(settings: Settings) -> None:
    """Let every command that is printed from now on be one for this node."""
    _node.set(settings)


def pasteable(text: str, *, anywhere: bool = False) -> str:
    """Return the text with the commands in it ready to be pasted into this terminal.

    They name the data directory unless it is the default of the current one; with `anywhere`
    always, for texts that are read elsewhere.
    """
    node = _node.get()
    found = node and (anywhere or node.origins.get("AGENTOS_DATA_DIR", "default") != "default")
    return as_pasted(text, node.data_dir if node and found else None, _program())


def _program() -> str:
    called = Path(sys.argv[0])
    if called.name != "agentos":
        return "agentos"
    on_path = shutil.which("agentos")
    if on_path and called.exists() and called.samefile(on_path):
        return "agentos"
    return shlex.quote(sys.argv[0])
