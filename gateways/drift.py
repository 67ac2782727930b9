"""Which differences between two OpenAPI documents break a client of the older one."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

Document = Mapping[str, Any]
Way = Literal["request", "answer"]
METHODS: Final = frozenset("get put post delete patch head options trace".split())
# In a request a narrower bound refuses what was taken; in an answer a wider one surprises.
LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
EXACT: Final = ("type", "format", "pattern", "const")


def breaking_changes(old: Document, new: Document) -> list[str]:
    """Return what of `old` a client relied on and `new` does not keep, one text a change."""
    return list(_Comparison(old, new).changes())


class _Comparison:
    """Walks the older document; `_met` keeps schemas that refer to themselves from looping."""

    def __init__(self, old: Document, new: Document) -> None:
        self._old = old
        self._new = new
        self._met: set[tuple[str, str, str]] = set()

    def changes(self) -> Iterator[str]:
        for path, methods in self._old.get("paths", {}).items():
            others = self._new.get("paths", {}).get(path)
            if others is None:
                yield f"{path} was removed"
                continue
            for method in METHODS & methods.keys():
                if method not in others:
                    yield f"{method.upper()} {path} was removed"
                    continue
                place = f"{method.upper()} {path}"
                yield from self._operation(place, methods[method], others[method])

    def _operation(self, place: str, old: Document, new: Document) -> Iterator[str]:
        yield from self._parameters(place, old, new)
        yield from self._bodies(place, old.get("requestBody"), new.get("requestBody"))
        if not old.get("security") and new.get("security"):
            yield f"{place} now asks for a credential"
        elif old.get("x-required-scope") != new.get("x-required-scope"):
            yield f"{place} now asks for another scope"
        for status, answer in old.get("responses", {}).items():
            other = new.get("responses", {}).get(status)
            if other is None:
                yield f"{place}: the answer {status} was removed"
                continue
            for kind, content in answer.get("content", {}).items():
                if kind not in other.get("content", {}):
                    yield f"{place}: {status} is no longer {kind}"
                    continue
                there = f"{place} {status}"
                schema = other["content"][kind].get("schema", {})
                yield from self._schema(there, content.get("schema", {}), schema, "answer")

    def _parameters(self, place: str, old: Document, new: Document) -> Iterator[str]:
        before = {(p["in"], p["name"]): p for p in old.get("parameters", ())}
        after = {(p["in"], p["name"]): p for p in new.get("parameters", ())}
        for key, parameter in before.items():
            there = f"{place}: the {key[0]} parameter {key[1]}"
            if key not in after:
                yield f"{there} was removed"
                continue
            if after[key].get("required") and not parameter.get("required"):
                yield f"{there} is now required"
            schemas = parameter.get("schema", {}), after[key].get("schema", {})
            yield from self._schema(there, *schemas, "request")
        for key in after.keys() - before.keys():
            if after[key].get("required"):
                yield f"{place}: the new {key[0]} parameter {key[1]} is required"

    def _bodies(self, place: str, old: Document | None, new: Document | None) -> Iterator[str]:
        there = f"{place} body"
        if new is None:
            if old is not None:
                yield f"{there} was removed"
            return
        if new.get("required") and not (old or {}).get("required"):
            yield f"{there} is now required"
        for kind, content in (old or {}).get("content", {}).items():
            if kind not in new.get("content", {}):
                yield f"{there} is no longer taken as {kind}"
                continue
            schemas = content.get("schema", {}), new["content"][kind].get("schema", {})
            yield from self._schema(there, *schemas, "request")

    def _schema(self, place: str, old: Document, new: Document, way: Way) -> Iterator[str]:
        if "$ref" in old and "$ref" in new:
            pair = (old["$ref"], new["$ref"], way)
            if pair in self._met:
                return
            self._met.add(pair)
        old, new = _resolved(self._old, old), _resolved(self._new, new)
        for key in EXACT:
            if old.get(key) != new.get(key):
                yield f"{place}: {key} was {old.get(key)!r}, is {new.get(key)!r}"
        yield from _enums(place, old, new, way)
        yield from _bounds(place, old, new, way)
        yield from self._properties(place, old, new, way)
        yield from self._parts(place, old, new, way)

    def _properties(self, place: str, old: Document, new: Document, way: Way) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name, schema in before.items():
            if name not in after:
                yield f"{place}.{name} was removed"
            else:
                yield from self._schema(f"{place}.{name}", schema, after[name], way)
        required, now = set(old.get("required", ())), set(new.get("required", ()))
        if way == "request":
            yield from (f"{place}.{name} is now required" for name in sorted(now - required))
        else:
            gone = (required - now) & after.keys()
            yield from (f"{place}.{name} is no longer always there" for name in sorted(gone))

    def _parts(self, place: str, old: Document, new: Document, way: Way) -> Iterator[str]:
        for key in ("items", "additionalProperties"):
            before, after = old.get(key), new.get(key)
            if isinstance(before, Mapping) and isinstance(after, Mapping):
                yield from self._schema(f"{place}[]", before, after, way)
            elif key == "additionalProperties" and after is False and before is not False:
                yield f"{place} takes no other fields any more"
        for key in ("anyOf", "oneOf", "allOf"):
            yield from self._variants(f"{place} {key}", old.get(key), new.get(key), way)

    def _variants(
        self, place: str, old: list[Document] | None, new: list[Document] | None, way: Way
    ) -> Iterator[str]:
        """Compare alternatives: a request may gain some, an answer may lose some."""
        if old is None and new is None:
            return
        if old is None or new is None:
            yield f"{place} appeared or went"
            return
        kept, others = (old, new) if way == "request" else (new, old)
        for variant in kept:
            if not any(self._fits(variant, other, way) for other in others):
                yield f"{place}: a variant has no match: {dict(variant)!r}"

    def _fits(self, kept: Document, other: Document, way: Way) -> bool:
        pair = (kept, other) if way == "request" else (other, kept)
        met = set(self._met)
        fits = not list(self._schema("", *pair, way))
        if not fits:
            self._met = met
        return fits


def _resolved(document: Document, schema: Document) -> Document:
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = document.get("components", {}).get("schemas", {}).get(name, {})
    return schema


def _enums(place: str, old: Document, new: Document, way: Way) -> Iterator[str]:
    before, after = old.get("enum"), new.get("enum")
    if before is None and after is None:
        return
    if before is None or after is None:
        if (after is None) == (way == "answer"):
            yield f"{place}: the listed values {'went' if after is None else 'appeared'}"
        elif way == "request":
            yield f"{place}: only listed values are taken now"
        return
    for value in before:
        if value not in after:
            yield f"{place}: the value {value!r} was removed"
    if way == "answer":
        for value in after:
            if value not in before:
                yield f"{place}: the value {value!r} is new in an answer"


def _bounds(place: str, old: Document, new: Document, way: Way) -> Iterator[str]:
    for key in (*LOWER, *UPPER):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        rises = after is not None and (before is None or after > before)
        narrows = rises if key in LOWER else after is not None and not (before and after > before)
        if narrows == (way == "request"):
            yield f"{place}: {key} was {before}, is {after}"
