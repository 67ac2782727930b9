"""Agents' definitions to try recorded runs with, instead of those that made them."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from agentos.cli.replay_sources import USAGE, RecordedRun, agent_of, end
from agentos.domain.agent.agent import Definition


@dataclass(frozen=True, slots=True)
class Agents:
    """Definitions by agent id; whichever version a run was of, this is what it is tried with."""

    definitions: Mapping[str, Definition]

    @classmethod
    def load(cls, folder: Path | None) -> Self:
        """Read a folder of `<agent_id>.json`; ends the command for a file that does not fit."""
        found: dict[str, Definition] = {}
        if folder is not None and not folder.is_dir():
            end(f"{folder}: there is no such folder", USAGE)
        for path in sorted(folder.glob("*.json")) if folder else ():
            try:
                found[path.stem] = Definition.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as exc:
                end(f"{path}: no agent definition: {exc}", USAGE)
        return cls(found)

    def instead(self, run: RecordedRun) -> RecordedRun:
        """Return the run with the definition to try, where there is one for its agent."""
        tried = self.definitions.get(agent_of(run.records))
        if tried is None:
            return run
        versions: defaultdict[str, Definition] = defaultdict(lambda: tried)
        versions.update(dict.fromkeys(run.definitions, tried))
        return replace(run, definitions=versions)
