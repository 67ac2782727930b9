"""The OpenAPI documents: `python -m agentos.gateways.openapi` writes them to `docs/api/`.

With `--check` it writes nothing, and fails on drift between code and document and on any
change that is not additive to what is committed (`--base` names the commit, HEAD by default).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from agentos.gateways.app import documented_doors
from agentos.gateways.drift import breaking_changes
from agentos.gateways.http.authorization import OPEN, required_scope

FOLDER: Final = Path("docs/api")
REF: Final = "#/components/schemas/{model}"
CREDENTIALS: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "a JWT or an API key"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
DESCRIPTION: Final = (
    "Every error has the shape `ErrorBody`. `/v1` is additive only: new optional fields may "
    "appear, and unknown fields in a request are ignored."
)


def documents() -> dict[str, dict[str, Any]]:
    """Return each document by its file name, made from the routes as they are."""
    return {f"{name}.json": document(app) for name, app in documented_doors().items()}


def document(app: FastAPI) -> dict[str, Any]:
    """Return an app's document: FastAPI's, with request bodies, scopes and nothing it assumes."""
    app.description = DESCRIPTION
    found = json.loads(json.dumps(app.openapi()))
    schemas: dict[str, Any] = found.setdefault("components", {}).setdefault("schemas", {})
    bodies = [(model, "validation") for model in dict.fromkeys(app.state.bodies)]
    _, made = models_json_schema(bodies, ref_template=REF)  # type: ignore[arg-type]
    for name, schema in made.get("$defs", {}).items():
        if schemas.setdefault(name, schema) != schema:
            raise ValueError(f"two schemas share the name {name}")
    found["components"]["securitySchemes"] = CREDENTIALS
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            _describe_scope(operation, required_scope(method.upper(), path))
    ordered: dict[str, Any] = _sorted(found)
    return ordered


def _describe_scope(operation: dict[str, Any], scope: str) -> None:
    # FastAPI adds its own 422, which we never answer: what does not fit is a 400.
    operation["responses"].pop("422", None)
    if scope != OPEN:
        operation["security"] = [{"bearer": []}, {"api_key": []}]
        operation["x-required-scope"] = scope


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def text_of(found: Mapping[str, Any]) -> str:
    """Return a document as it is committed."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def check(folder: Path, base: str) -> list[str]:
    """Return what is wrong: drift, and changes that are not additive."""
    problems = []
    for name, found in documents().items():
        path = folder / name
        if not path.exists() or path.read_text() != text_of(found):
            problems.append(f"{path} is not what the code says: run `make api`")
        committed = _committed(path, base)
        if committed is not None:
            problems += [f"{path}: {change}" for change in breaking_changes(committed, found)]
    return problems


def _committed(path: Path, base: str) -> dict[str, Any] | None:
    """Return the document of a commit; `None` when it has none, or there is no repository."""
    shown = subprocess.run(
        ["git", "show", f"{base}:./{path.name}"],
        cwd=path.parent,
        capture_output=True,
        check=False,
        timeout=30,
    )
    if shown.returncode != 0:
        return None
    committed: dict[str, Any] = json.loads(shown.stdout)
    return committed


def main(arguments: list[str] | None = None) -> int:
    """Write the documents, or check them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="agentos.gateways.openapi", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on drift")
    parser.add_argument("--base", default="HEAD", help="the commit that must stay compatible")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    if options.check:
        problems = check(options.folder, options.base)
        print("\n".join(problems) or "the documents are what the code says")
        return 1 if problems else 0
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, found in documents().items():
        (options.folder / name).write_text(text_of(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
