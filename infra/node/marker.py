"""What a data directory holds: its layout, who wrote it last, and whether a log was made."""

from collections.abc import Mapping
from typing import Any

from agentos.infra.node.errors import NodeError
from agentos.infra.node.files import read_object, write_object
from agentos.infra.node.paths import NodePaths

LAYOUT = 1


def check_layout(paths: NodePaths) -> None:
    """Raise `NodeError` when the data directory was written by a newer AgentOS."""
    layout = read_object(paths.marker).get("layout", LAYOUT)
    if layout != LAYOUT:
        raise NodeError(
            "data directory",
            f"{paths.data} has layout {layout}, this AgentOS knows layout {LAYOUT}",
            "install the AgentOS that wrote it, or choose another directory: "
            "agentos up --data-dir PATH",
        )


def read_marker(paths: NodePaths) -> dict[str, Any]:
    """Return the marker, `{}` for a directory that no node has used."""
    return read_object(paths.marker)


def update_marker(paths: NodePaths, **changes: object) -> None:
    """Write the marker with the changes."""
    write_object(paths.marker, {**read_object(paths.marker), "layout": LAYOUT, **changes})


def remembered_flags(paths: NodePaths) -> Mapping[str, str]:
    """Return the flags of the last `up`, which `redeploy` and the other commands go by."""
    flags = read_object(paths.marker).get("flags", {})
    return {str(k): str(v) for k, v in flags.items()} if isinstance(flags, dict) else {}
