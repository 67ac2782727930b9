"""Whether a value is a JSON Schema at all: its keywords have the forms that they must have.

A check of structure: what the metaschema of draft 2020-12 takes is taken, and a list of `items`
as older drafts have it. Whether a backend knows every keyword is the backend's to say.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

Loc = tuple[str | int, ...]
TYPES: Final = frozenset("array boolean integer null number object string".split())
MAX_DEPTH: Final = 64


class NotASchemaError(Exception):
    """A place in what should be a JSON Schema breaks its rules."""

    def __init__(self, loc: Loc, msg: str) -> None:
        super().__init__(msg)
        self.loc = loc
        self.msg = msg


def check_schema(schema: Any, loc: Loc = ()) -> None:
    """Return if `schema` is a JSON Schema; raises `NotASchemaError` for the first place."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise NotASchemaError(loc, "a schema is an object or a boolean")
    if len(loc) > MAX_DEPTH:
        raise NotASchemaError(loc, "the schema is nested too deeply")
    for keyword, value in schema.items():
        check = CHECKS.get(keyword)
        if check is not None:
            check(value, (*loc, keyword))


def _schemas(value: Any, loc: Loc) -> None:
    if not isinstance(value, list) or not value:
        raise NotASchemaError(loc, "a list of schemas that is not empty")
    for at, one in enumerate(value):
        check_schema(one, (*loc, at))


def _named_schemas(value: Any, loc: Loc) -> None:
    for name, one in _an_object(value, loc).items():
        check_schema(one, (*loc, name))


def _items(value: Any, loc: Loc) -> None:
    if isinstance(value, list):
        _schemas(value, loc)
    else:
        check_schema(value, loc)


def _dependencies(value: Any, loc: Loc) -> None:
    for name, one in _an_object(value, loc).items():
        if isinstance(one, list):
            _names(one, (*loc, name))
        else:
            check_schema(one, (*loc, name))


def _named_names(value: Any, loc: Loc) -> None:
    for name, one in _an_object(value, loc).items():
        _names(one, (*loc, name))


def _names(value: Any, loc: Loc) -> None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise NotASchemaError(loc, "a list of names")
    if len(set(value)) != len(value):
        raise NotASchemaError(loc, "a name is there twice")


def _type(value: Any, loc: Loc) -> None:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name in TYPES for name in names):
        raise NotASchemaError(loc, f"one or more of {', '.join(sorted(TYPES))}")
    _names(names, loc)


def _an_object(value: Any, loc: Loc) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise NotASchemaError(loc, "must be an object")
    return value


def _is(kind: type | tuple[type, ...], what: str) -> Callable[[Any, Loc], None]:
    def check(value: Any, loc: Loc) -> None:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise NotASchemaError(loc, f"must be {what}")

    return check


def _count(value: Any, loc: Loc) -> None:
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
    if not is_whole or value < 0:
        raise NotASchemaError(loc, "must be a whole number that is not negative")


def _above_zero(value: Any, loc: Loc) -> None:
    _NUMBER(value, loc)
    if value <= 0:
        raise NotASchemaError(loc, "must be above zero")


_TEXT: Final = _is(str, "a string")
_NUMBER: Final = _is((int, float), "a number")
_FLAG: Final = _is(bool, "true or false")
_LIST: Final = _is(list, "a list")
_GROUPS: Final[Mapping[Callable[[Any, Loc], None], str]] = {
    check_schema: "additionalProperties contains else if not propertyNames then "
    "unevaluatedItems unevaluatedProperties contentSchema",
    _schemas: "allOf anyOf oneOf prefixItems",
    _named_schemas: "properties patternProperties $defs definitions dependentSchemas",
    _items: "items",
    _dependencies: "dependencies",
    _named_names: "dependentRequired",
    _names: "required",
    _type: "type",
    _LIST: "enum examples",
    _TEXT: "$id $ref $schema $anchor $dynamicRef $dynamicAnchor $comment title description format "
    "contentEncoding contentMediaType pattern",
    _NUMBER: "maximum minimum exclusiveMaximum exclusiveMinimum",
    _above_zero: "multipleOf",
    _count: "maxItems minItems maxLength minLength maxProperties minProperties maxContains "
    "minContains",
    _FLAG: "deprecated readOnly writeOnly uniqueItems",
}
CHECKS: Final[Mapping[str, Callable[[Any, Loc], None]]] = {
    keyword: check for check, keywords in _GROUPS.items() for keyword in keywords.split()
}
