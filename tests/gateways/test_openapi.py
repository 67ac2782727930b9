"""The documents: what the code says, nothing broken, and examples that fit."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from agentos.gateways.drift import breaking_changes
from agentos.gateways.http.authorization import SCOPES
from agentos.gateways.openapi import documents, main, text_of

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs/api/examples").glob("*.json"))


def test_the_committed_documents_are_what_the_code_says() -> None:
    for name, found in documents().items():
        assert (ROOT / "docs/api" / name).read_text() == text_of(found), f"{name}: run make api"


def test_check_fails_on_drift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(tmp_path)]) == 0
    assert main(["--folder", str(tmp_path), "--check"]) == 0
    (tmp_path / "federation.json").write_text("{}")
    assert main(["--folder", str(tmp_path), "--check"]) == 1
    assert "federation.json is not what the code says" in capsys.readouterr().out


def test_every_documented_route_has_a_scope_and_every_scope_a_route() -> None:
    routes = {
        (method.upper(), path)
        for found in documents().values()
        for path, methods in found["paths"].items()
        for method in methods
    }
    assert routes == set(SCOPES)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_validate(path: Path) -> None:
    example = json.loads(path.read_text())
    found = documents()["orchestrator.json"]
    operation = found["paths"][example["path"]][example["method"].lower()]
    answer = operation["responses"][str(example["status"])]
    _validate(found, answer["content"]["application/json"]["schema"], example["response"])
    if "request" in example and example["status"] != 400:
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        _validate(found, body, example["request"])


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 10


def _validate(found: dict[str, Any], schema: dict[str, Any], instance: Any) -> None:
    whole = {**schema, "components": found["components"]}
    jsonschema_rs.validator_for(whole).validate(instance)


OLD: dict[str, Any] = {
    "paths": {
        "/a": {
            "post": {
                "x-required-scope": "a:write",
                "parameters": [
                    {"in": "query", "name": "limit", "schema": {"type": "integer", "maximum": 200}},
                    {"in": "query", "name": "status", "schema": {"enum": ["on", "off"]}},
                ],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/x/In"}}}},
                "responses": {
                    "200": {"content": {"application/json": {"schema": {"$ref": "#/x/Out"}}}},
                    "404": {},
                },
            }
        },
        "/b": {"get": {"responses": {}}},
    },
    "components": {
        "schemas": {
            "In": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "maxLength": 10},
                    "self": {"$ref": "#/x/In"},
                    "kind": {"enum": ["x", "y"]},
                    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                },
            },
            "Out": {
                "type": "object",
                "required": ["id"],
                "properties": {
                    "id": {"type": "string"},
                    "state": {"enum": ["on", "off"]},
                    "list": {"type": "array", "items": {"type": "integer"}},
                },
            },
        }
    },
}


def _changed(path: str, value: Any) -> dict[str, Any]:
    """Return `OLD` with one place changed; `None` removes it."""
    new = copy.deepcopy(OLD)
    *parents, last = path.split(">")
    place: Any = new
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if value is None:
        del place[int(last) if isinstance(place, list) else last]
    elif isinstance(place, list):
        place.append(value)
    else:
        place[last] = value
    return new


POST = "paths>/a>post"
IN = "components>schemas>In"
OUT = "components>schemas>Out"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("paths>/b", None, "/b was removed"),
        ("paths>/b>get", None, "GET /b was removed"),
        (f"{POST}>responses>404", None, "the answer 404 was removed"),
        (f"{POST}>responses>200>content", {"text/plain": {}}, "no longer application/json"),
        (f"{POST}>parameters>0", None, "parameter limit was removed"),
        (f"{POST}>parameters>0>required", True, "is now required"),
        (f"{POST}>parameters>0>schema>maximum", 100, "maximum was 200, is 100"),
        (f"{POST}>parameters>1>schema>enum", ["on"], "'off' was removed"),
        (f"{POST}>parameters>+", {"in": "query", "name": "n", "required": True}, "n is required"),
        (f"{POST}>requestBody>required", True, "body is now required"),
        (f"{POST}>x-required-scope", "b:write", "another scope"),
        (f"{POST}>security", [{}], "asks for a credential"),
        (f"{IN}>properties>name", None, ".name was removed"),
        (f"{IN}>properties>name>type", "integer", "type was 'string'"),
        (f"{IN}>properties>name>maxLength", 5, "maxLength was 10, is 5"),
        (f"{IN}>properties>name>minLength", 1, "minLength was None, is 1"),
        (f"{IN}>required>+", "kind", ".kind is now required"),
        (f"{IN}>properties>kind>enum", ["x"], "'y' was removed"),
        (f"{IN}>properties>maybe>anyOf", [{"type": "string"}], "has no match"),
        (f"{IN}>additionalProperties", False, "takes no other fields"),
        (f"{OUT}>properties>state>enum", ["on", "off", "new"], "'new' is new in an answer"),
        (f"{OUT}>properties>state>enum", ["on"], "'off' was removed"),
        (f"{OUT}>required", [], ".id is no longer always there"),
        (f"{OUT}>properties>list>items>type", "string", "list[]: type was 'integer'"),
    ],
)
def test_a_breaking_change_is_named(path: str, value: Any, said: str) -> None:
    (found,) = breaking_changes(OLD, _changed(path, value))
    assert said in found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("paths>/c", {"get": {"responses": {}}}),
        (f"{POST}>responses>409", {}),
        (f"{POST}>parameters>+", {"in": "query", "name": "n"}),
        (f"{POST}>parameters>0>schema>maximum", 500),
        (f"{POST}>parameters>1>schema>enum", ["on", "off", "new"]),
        (f"{IN}>properties>more", {"type": "string"}),
        (f"{IN}>properties>name>maxLength", 20),
        (f"{IN}>properties>kind>enum", ["x", "y", "z"]),
        (f"{IN}>required", []),
        (f"{OUT}>properties>more", {"type": "string"}),
        (f"{OUT}>required", ["id", "state"]),
        (f"{OUT}>description", "better words"),
    ],
)
def test_an_additive_change_breaks_nothing(path: str, value: Any) -> None:
    assert breaking_changes(OLD, _changed(path, value)) == []


def test_a_document_is_compatible_with_itself() -> None:
    for found in documents().values():
        assert breaking_changes(found, found) == []
