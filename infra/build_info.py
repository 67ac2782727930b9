"""Which build of the program this is, as far as its installation says."""

import json
import re
from importlib.metadata import PackageNotFoundError, distribution
from typing import Final

from agentos.domain.federation.peer import Build

NAME: Final = "agentos"
COMMIT: Final = re.compile(r"^[0-9a-f]{7,64}$")


def build_of(name: str = NAME) -> Build:
    """Return version and, where it was installed from a repository, the commit.

    What the installation does not say stays `unknown`; a peers file's `local.build` may say it.
    """
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return Build()
    return Build(version=found.version, git_sha=commit_of(found.read_text("direct_url.json")))


def commit_of(direct_url: str | None) -> str:
    """Return the commit that a `direct_url.json` (PEP 610) names, `unknown` for none."""
    try:
        commit = json.loads(direct_url or "{}")["vcs_info"]["commit_id"]
    except (ValueError, KeyError, TypeError):
        return "unknown"
    return commit if isinstance(commit, str) and COMMIT.match(commit) else "unknown"
