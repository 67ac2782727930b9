"""The page's policy does what its cases say, and its other documents are what the API takes."""

import json
from pathlib import Path

from typer.testing import CliRunner

from agentos.cli.main import app
from agentos.domain.policy.kinds import GROUPS, KINDS
from agentos.gateways.model_policy.check_schemas import PolicyCheckBody
from tests.docs.pages import ROOT, blocks, code_spans

PAGE = ROOT / "docs" / "policies.md"
POLICY, CASES, CHECK = blocks(PAGE, "json")


def test_the_policy_passes_its_cases(tmp_path: Path) -> None:
    (tmp_path / "support.json").write_text(POLICY)
    (tmp_path / "cases.json").write_text(CASES)
    files = [str(tmp_path / name) for name in ("support.json", "cases.json")]
    result = CliRunner().invoke(app, ["policy", "test", files[0], "--case", files[1]])
    assert result.exit_code == 0, result.output
    assert f"{len(json.loads(CASES))} cases, 0 failed" in result.output


def test_the_check_is_one() -> None:
    assert PolicyCheckBody.model_validate_json(CHECK).policy_check.ruleset == "pol_support@1"


def test_every_kind_is_on_the_page() -> None:
    assert {*KINDS, *GROUPS} <= set(code_spans(PAGE))
