"""`agentos policy`, as a user calls it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agentos.cli import policy_cases
from agentos.cli.main import app
from tests.cli.test_admin_commands import Cli, cli, read

__all__ = ["cli"]  # the fixture
SUPPORT = {
    "name": "Support",
    "rules": [
        {"name": "no_cards", "effect": "block", "when": {"pii_types": ["credit_card"]}},
        {"name": "hide_mail", "effect": "redact", "when": {"pii_types": ["email"]}},
        {
            "name": "at_night",
            "effect": "require_approval",
            "when": {
                "tool": ["tool.http.*"],
                "time_of_day": {"begin": "22:00", "end": "06:00"},
            },
        },
    ],
}
CARD = "my card: 4111 1111 1111 1111"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A policy in a file."""
    path = tmp_path / "support.json"
    path.write_text(json.dumps(SUPPORT))
    return path


def misspell(policy: Path) -> None:
    """Put a rule in the file that names a kind which is none."""
    policy.write_text(json.dumps(SUPPORT).replace("email", "emial"))


def tried(policy: Path, *cases: Any, as_json: bool = True) -> Result:
    """Call `agentos policy test` with these cases."""
    given = [word for case in cases for word in ("--case", str(case))]
    more = ["--json"] if as_json else []
    return CliRunner().invoke(app, ["policy", "test", str(policy), *given, *more])


def cases_in(tmp_path: Path, content: Any) -> Path:
    """Return a file with cases."""
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(content))
    return path


def test_texts_on_the_command_line(policy: Path) -> None:
    result = tried(policy, CARD, "mail a@example.com", "hello")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [(case["decision"], case["rule"]) for case in found["cases"]] == [
        ("blocked", "no_cards"),
        ("redacted", "hide_mail"),
        ("allowed", None),
    ]
    assert found["cases"][1]["text"] == "mail [EMAIL]"
    assert found["cases"][0]["text"] is None
    assert found["cases"][0]["reasons"] == ["pol_file@draft", "block:no_cards"]


def test_a_text_file(policy: Path, tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("From a@example.com\n")
    result = tried(policy, letter, as_json=False)
    assert result.exit_code == 0
    assert "ok     letter.txt: redacted, redact:hide_mail" in result.stdout
    assert "From [EMAIL]" in result.stdout


def test_expectations_that_hold_and_one_that_does_not(policy: Path, tmp_path: Path) -> None:
    night = {"text": "x", "tool": "tool.http.fetch", "at": "2026-11-25T23:00:00Z"}
    good = [
        {"text": CARD, "expect": {"decision": "blocked", "rule": "no_cards"}},
        {"text": "a@example.com", "expect": {"text": "[EMAIL]"}},
        {**night, "expect": {"decision": "blocked", "rule": "at_night"}},
        {**night, "at": "2026-11-25T12:00:00Z", "expect": {"decision": "allowed", "rule": None}},
    ]
    path = cases_in(tmp_path, good)
    assert tried(policy, path).exit_code == 0, tried(policy, path).output
    bad = {"name": "wrong", "text": CARD, "expect": {"decision": "allowed"}}
    result = tried(policy, path, cases_in(tmp_path, [*good, bad]), as_json=False)
    assert result.exit_code == 1
    assert "FAILED wrong: blocked, block:no_cards" in result.stdout
    assert "decision: expected 'allowed', found 'blocked'" in result.stdout
    assert "10 cases, 2 failed" in result.stdout


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("no json", "support.json: the whole: Invalid JSON"),
        ('{"name": "x"}', "support.json: rules: Field required"),
        (
            '{"name": "x", "rules": [{"name": "a", "effect": "block", '
            '"when": {"content_patterns": [{"name": "p", "regex": "(a+)+"}]}}]}',
            "repeats without an end",
        ),
    ],
)
def test_a_policy_that_cannot_be_gone_by(policy: Path, document: str, said: str) -> None:
    policy.write_text(document)
    result = tried(policy, "x")
    assert result.exit_code == 1
    assert said in result.stderr


def test_names_are_found_where_the_extra_is_installed(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.write_text(
        '{"name": "x", "rules": [{"name": "a", "effect": "redact", '
        '"when": {"pii_types": ["person", "location"]}}]}'
    )
    result = tried(policy, "Please write to John Smith in New York.", as_json=False)
    assert "Please write to [PERSON] in [LOCATION]." in result.stdout
    monkeypatch.setattr(policy_cases, "installed_names", lambda: None)
    result = tried(policy, "x")
    assert result.exit_code == 1
    assert "no recogniser for it is installed" in result.stderr


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ([{"txt": "x"}], "0.text: Field required"),
        ([{"text": "x", "expect": {"decison": "blocked"}}], "Extra inputs"),
        ([{"text": "x", "at": "noon"}], "cases.json"),
        (3, "0: Input should be"),
    ],
)
def test_cases_that_do_not_fit(policy: Path, tmp_path: Path, cases: Any, said: str) -> None:
    result = tried(policy, cases_in(tmp_path, cases))
    assert result.exit_code == 1
    assert said in result.stderr


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = tried(tmp_path / "none.json", "x")
    assert result.exit_code == 1
    assert "No such file" in result.stderr


async def test_versions_on_a_node(cli: Cli, policy: Path) -> None:
    await read(cli, "tenants", "create", "tnt_a")
    of = ("--tenant", "tnt_a")
    first = await read(cli, "policy", "publish", "pol_support", str(policy), *of)
    assert first["policy"]["active_version"] is None
    second = await read(cli, "policy", "publish", "pol_support", str(policy), "--activate", *of)
    assert second["policy"]["active_version"] == 2
    back = await read(cli, "policy", "activate", "pol_support", "1", *of)
    assert back["policy"]["active_version"] == 1
    listed = await read(cli, "policy", "list", *of)
    assert [p["policy_id"] for p in listed["policies"]] == ["pol_default", "pol_support"]
    shown = await read(cli, "policy", "show", "pol_support", *of)
    assert shown["policy"] == back["policy"]
    table = await cli("policy", "show", "pol_support", *of)
    assert "yes" in table.stdout
    assert "pol_support" in (await cli("policy", "list", *of)).stdout


async def test_what_the_node_refuses_is_told(cli: Cli, policy: Path) -> None:
    await read(cli, "tenants", "create", "tnt_a")
    misspell(policy)
    result = await cli("policy", "publish", "pol_x", str(policy), "--tenant", "tnt_a")
    assert result.exit_code == 1
    assert "there is no kind 'emial'" in result.stderr
    result = await cli("policy", "activate", "pol_x", "1", "--tenant", "tnt_a")
    assert result.exit_code == 1
    assert "not_found" in result.stderr
