"""Tools, calls and formats of OpenAI's bodies as the model port has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from pydantic_core import from_json

from agentos.domain.errors import InvalidRequestError
from agentos.domain.ports import RequestedToolCall, ToolOffer
from agentos.gateways.http.errors import misfit
from agentos.gateways.model_policy.json_schema import NotASchemaError, check_schema

Place = tuple[str | int, ...]
MODES: Final = ("auto", "none", "required")
NO_ARGUMENTS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Function:
    """A function that a client offers, and where in its body."""

    name: str
    description: str | None
    parameters: dict[str, Any] | None
    place: Place


def to_offers(functions: Sequence[Function]) -> tuple[ToolOffer, ...]:
    """Return the tools; `InvalidRequestError` for what is no JSON Schema of an object."""
    names: set[str] = set()
    offers = []
    for one in functions:
        if one.name in MODES or one.name in names:
            why = "is there twice" if one.name in names else "is a mode of tool_choice"
            raise misplaced((*one.place, "name"), why)
        names.add(one.name)
        schema = NO_ARGUMENTS if one.parameters is None else one.parameters
        require_schema(schema, (*one.place, "parameters"))
        if schema.get("type", "object") != "object":
            raise misplaced((*one.place, "parameters", "type"), "must be object")
        offers.append(ToolOffer(one.name, one.name, one.description or "", schema))
    return tuple(offers)


def require_schema(schema: Any, place: Place) -> None:
    """Raise `InvalidRequestError` unless the value is a JSON Schema."""
    try:
        check_schema(schema)
    except NotASchemaError as error:
        raise misplaced((*place, *error.loc), f"not a JSON Schema: {error.msg}") from error


def to_choice(choice: str | None, offers: Sequence[ToolOffer], place: Place) -> str | None:
    """Return a mode or the name of an offered tool."""
    if choice is None or choice in ("auto", "none"):
        return choice
    if choice == "required":
        if not offers:
            raise misplaced(place, "no tools are offered")
    elif all(offer.name != choice for offer in offers):
        raise misplaced(place, "no such tool is offered")
    return choice


def to_call(call_id: str, name: str, arguments: str, place: Place) -> RequestedToolCall:
    """Return a call that the model asked for before."""
    try:
        parsed = orjson.loads(arguments or "{}")
        from_json(arguments or "{}", allow_inf_nan=False)  # as deep as a body may be, no deeper
    except ValueError as exc:
        raise misplaced((*place, "arguments"), "must be JSON, and not too deep") from exc
    if not isinstance(parsed, dict):
        raise misplaced((*place, "arguments"), "must be a JSON object")
    return RequestedToolCall(call_id, name, name, parsed)


def at_most_one(
    calls: Sequence[RequestedToolCall], parallel: bool | None
) -> Sequence[RequestedToolCall]:
    """Return the calls, or only the first where the client wants them one by one."""
    return calls[:1] if parallel is False else calls


def arguments_text(call: RequestedToolCall) -> str:
    """Return a call's arguments as the JSON text that they are in OpenAI's format."""
    return orjson.dumps(dict(call.arguments)).decode()


def misplaced(place: Place, msg: str) -> InvalidRequestError:
    """Return the error for one place of a body."""
    return misfit(["body", *place], msg)
