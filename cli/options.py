"""Options that many commands share, and the settings that follow from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from agentos.cli.pasteable import about
from agentos.infra.node.marker import remembered_flags
from agentos.infra.node.paths import NodePaths
from agentos.infra.settings import Settings

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Data directory of the node.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def node_settings(
    data_dir: Path | None = None, flags: Mapping[str, str | None] | None = None
) -> Settings:
    """Return the settings for a command on a node.

    What `up` was told by flags holds for later commands on the same data directory, unless a
    flag, the environment or `.agentos.env` says otherwise. Commands that are printed from now
    on are about this node. Raises `SettingsError`.
    """
    given = {**(flags or {}), "AGENTOS_DATA_DIR": str(data_dir) if data_dir else None}
    settings = Settings.load(given)
    remembered = remembered_flags(NodePaths(settings.data_dir))
    unset = {n: v for n, v in remembered.items() if settings.origins.get(n) == "default"}
    settings = Settings.load({**given, **unset}) if unset else settings
    about(settings)
    return settings
