"""Which build this is: what the installation says, and nothing made up."""

import json
from importlib.metadata import version

import pytest

from agentos.infra.build_info import build_of, commit_of

SHA = "0123456789abcdef0123456789abcdef01234567"


def test_the_version_is_the_packages() -> None:
    assert build_of().version == version("agentos")
    assert build_of("no-such-package-of-ours").version == "unknown"


def test_the_commit_of_an_installation_from_a_repository() -> None:
    found = {"url": "https://example.org/a.git", "vcs_info": {"vcs": "git", "commit_id": SHA}}
    assert commit_of(json.dumps(found)) == SHA


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", '{"vcs_info": 5}', '{"vcs_info": {"commit_id": "x y"}}']
)
def test_what_is_not_said_is_unknown(text: str | None) -> None:
    assert commit_of(text) == "unknown"
