"""The AsyncAPI document: committed as the code says, whole, and found when it drifts."""

import json
from pathlib import Path
from typing import Any

import pytest

from agentos.domain.run.events import RUN_EVENTS
from agentos.gateways.asyncapi import FILE, document, main

ROOT = Path(__file__).resolve().parents[2]


def references(value: Any) -> set[str]:
    """Return every reference in a document."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(inner) for inner in value.values()))
    return (
        set().union(*(references(inner) for inner in value)) if isinstance(value, list) else set()
    )


def test_the_committed_document_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--folder", str(ROOT / "docs/api")]) == 0
    assert "is what the code says" in capsys.readouterr().out


def test_drift_is_found(tmp_path: Path) -> None:
    assert main(["--check", "--folder", str(tmp_path)]) == 1
    assert main(["--folder", str(tmp_path)]) == 0
    assert main(["--check", "--folder", str(tmp_path)]) == 0
    (tmp_path / FILE).write_text("{}")
    assert main(["--check", "--folder", str(tmp_path)]) == 1


def test_every_event_is_there_and_every_reference_leads_somewhere() -> None:
    found = document()
    names = {message["name"] for message in found["components"]["messages"].values()}
    assert names == {*RUN_EVENTS, "agentos.audit.recorded"}
    for reference in references(found):
        target: Any = found
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        assert target
    assert json.loads(json.dumps(found)) == found
