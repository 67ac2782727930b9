"""`agentos audit verify FILE`: by whose key, and what a broken file beside it says."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agentos.cli.audit import app
from tests.domain.audit.keys import signer
from tests.domain.audit.test_verification import KEYS, RECORDS, SIGNED

OTHER = signer(2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An export as the command writes it."""
    path = tmp_path / "audit.ndjson"
    path.write_bytes(b"".join(line + b"\n" for line in RECORDS))
    beside(path, {"tenant_id": "tnt_a", "keys": KEYS}, *({"checkpoint": c} for c in SIGNED))
    return path


def beside(path: Path, *said: Any) -> None:
    Path(f"{path}.checkpoints").write_text("".join(json.dumps(one) + "\n" for one in said))


def verify(*args: object) -> Result:
    return CliRunner().invoke(app, ["verify", *map(str, args)])


def test_it_says_whose_key_signed(file: Path) -> None:
    said = verify(file)
    assert said.exit_code == 0, said.output
    assert f"by {signer().key_id}" in said.stdout
    found = json.loads(verify(file, "--json").stdout)
    assert (found["keys"], found["signed_to"]) == ([signer().key_id], 18)


def test_a_key_of_somebody_else_proves_nothing(file: Path) -> None:
    """Whoever writes a history can put a key beside it."""
    assert verify(file, "--key", OTHER.public_key).exit_code == 1
    assert verify(file, "--key", OTHER.public_key, "--json").exit_code == 1
    for keys in (("--key", signer().public_key), ("--key", OTHER.public_key.upper())):
        both = verify(file, "--key", signer().public_key, *keys)
        assert both.exit_code == 0, both.output
    beside(file, {"tenant_id": "tnt_a", "keys": {}}, *({"checkpoint": c} for c in SIGNED))
    assert verify(file, "--key", signer().public_key).exit_code == 0


def test_with_a_key_a_chain_without_checkpoints_is_no_proof(file: Path) -> None:
    beside(file, {"tenant_id": "tnt_a", "keys": KEYS})
    assert verify(file).exit_code == 0
    said = verify(file, "--key", signer().public_key)
    assert said.exit_code == 1
    assert "nothing is signed" in said.stderr


@pytest.mark.parametrize("key", ["", "kid_1", "zz" * 32, "ab" * 31])
def test_what_is_no_key_is_said_to_be_none(file: Path, key: str) -> None:
    said = verify(file, "--key", key)
    assert said.exit_code == 2
    assert "no Ed25519 public key" in said.stderr


@pytest.mark.parametrize("value", [None, 1, "x", [], [["a", "b"]]])
@pytest.mark.parametrize("name", ["keys", "checkpoint"])
def test_a_member_that_is_no_object_is_an_error_not_a_traceback(
    file: Path, name: str, value: Any
) -> None:
    beside(file, {"tenant_id": "tnt_a"}, {name: value})
    said = verify(file)
    assert said.exit_code == 2
    assert f"'{name}' is no object" in said.stderr
    assert isinstance(said.exception, SystemExit)
