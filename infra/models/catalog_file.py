"""The models file: JSON with the node's backends, models, prices and routes, and where it errs."""

import json
from collections.abc import Sequence
from json.decoder import WHITESPACE  # type: ignore[attr-defined]  # its own name for it
from pathlib import Path
from typing import Any, Final

from agentos.domain.models.catalog import BackendEntry, Catalog
from agentos.domain.models.catalog_rules import CatalogError, Complete, Loc, parse_catalog, place
from agentos.domain.models.defaults import DEFAULT_CATALOG, completed, with_openai
from agentos.domain.models.published import Source
from agentos.infra.settings import Settings

MAX_BYTES: Final = 4 * 2**20


class ModelsFileError(Exception):
    """The file cannot be used; `problems` name the file, the line and the field."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def node_catalog(settings: Settings) -> tuple[Catalog, Source]:
    """Return what the settings and their models file make of the catalog, and which it is.

    Raises `ModelsFileError`.
    """

    def complete(catalog: Catalog) -> Catalog:
        return with_openai(
            completed(catalog),
            settings.openai_base_url,
            tuple(settings.openai_models),
            settings.texts.get("AGENTOS_OPENAI_API_KEY_FILE"),
        )

    if settings.models_file is None:
        return complete(DEFAULT_CATALOG), "default"
    return read_models_file(settings.models_file, complete), "file"


def read_models_file(path: Path, complete: Complete = completed) -> Catalog:
    """Return the catalog in a file, with what `complete` adds to it. Raises `ModelsFileError`.

    A key file with a slash in its name is found from the file's own directory.
    """
    text = _read(path)
    try:
        raw = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except json.JSONDecodeError as exc:
        raise ModelsFileError([f"{path}:{exc.lineno}: not JSON: {exc.msg}"]) from exc
    except (ValueError, RecursionError) as exc:
        raise ModelsFileError([f"{path}: {exc}"]) from exc
    try:
        catalog = parse_catalog(raw, complete)
    except CatalogError as exc:
        found = [f"{path}:{line_of(text, loc)}: {place(loc)}: {msg}" for loc, msg in exc.problems]
        raise ModelsFileError(found) from exc
    backends = tuple(_located(entry, path.parent) for entry in catalog.backends)
    return catalog.model_copy(update={"backends": backends})


def line_of(text: str, loc: Loc) -> int:
    """Return the line on which the value at `loc` begins; of the nearest that is there."""
    decoder, at = json.JSONDecoder(), _skip(text, 0)
    for part in loc:
        inner = _find(text, at, part, decoder)
        if inner is None:
            break
        at = inner
    return text.count("\n", 0, at) + 1


def _find(text: str, at: int, part: str | int, decoder: json.JSONDecoder) -> int | None:
    """Return where the member or item `part` of the value at `at` begins."""
    if text[at] not in "{[":
        return None
    is_object, number = text[at] == "{", 0
    at = _skip(text, at + 1)
    while text[at] not in "}]":
        name: str | int = number
        if is_object:
            name, at = decoder.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
        if name == part:
            return at
        _, at = decoder.raw_decode(text, at)
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
        number += 1
    return None


def _skip(text: str, at: int) -> int:
    found = WHITESPACE.match(text, at)
    return at if found is None else int(found.end())


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ModelsFileError([f"{path}: over {MAX_BYTES // 2**20} MiB"])
        return raw.decode()
    except OSError as exc:
        raise ModelsFileError([f"{path}: cannot be read: {exc.strerror}"]) from exc
    except UnicodeDecodeError as exc:
        raise ModelsFileError([f"{path}: not UTF-8: byte {exc.start}"]) from exc


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} stands twice in one object")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _located(entry: BackendEntry, directory: Path) -> BackendEntry:
    name = entry.api_key_file
    if name is None or "/" not in name:
        return entry
    path = (directory / Path(name).expanduser()).absolute()
    return entry.model_copy(update={"api_key_file": str(path)})
