"""Where the content of a data subject stands in a run's line, and how it is put under seal.

Only the content is replaced, each piece where it stood and in a form that fits there: a sealed
line is an envelope as any other and folds as one, without any key. A text becomes a text (base64)
beside a `sealed` mark; an object becomes `{"sealed": mark, "box": base64}`. The mark is
`<key id>/<event id>`.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from pydantic_core import from_json, to_json

from agentos.domain.federation.forward import ForwardFailed, ForwardRequested
from agentos.domain.federation.ingest import EventsIngested
from agentos.domain.federation.remote import EventsCopied
from agentos.domain.run.events import (
    ModelCompleted,
    RunCompleted,
    RunCreated,
    RunFailed,
    StepStarted,
    ToolCallCompleted,
    ToolCallRequested,
)

Seal = Callable[[bytes, bytes], bytes]
"""From the plain bytes and what they are bound to, to the sealed ones; or back (`ValueError`)."""
ERASED: Final = "[erased]"
MARK: Final = "sealed"
Kind = Literal["text", "object", "list"]
BOX: Final = "box"


class Place(NamedTuple):
    """A place in a payload: its path (`*` is every item of a list), and what stands there."""

    path: tuple[str, ...]
    kind: Kind


def _place(path: str, kind: Kind = "text") -> Place:
    return Place(tuple(path.split(".")), kind)


WHY: Final = (_place("error.message"), _place("error.details", "object"))
PLACES: Final[Mapping[str, tuple[Place, ...]]] = {
    RunCreated.TYPE: (_place("input.text"),),
    StepStarted.TYPE: (_place("message"),),
    ModelCompleted.TYPE: (
        _place("message.content"),
        _place("message.tool_calls.*.arguments", "object"),
        *WHY,
    ),
    ToolCallRequested.TYPE: (_place("input", "object"),),
    ToolCallCompleted.TYPE: (_place("output", "object"), *WHY),
    RunCompleted.TYPE: (_place("output.text"), _place("output.artifacts", "list")),
    RunFailed.TYPE: WHY,
    ForwardRequested.TYPE: (_place("run_request.input.text"),),
    ForwardFailed.TYPE: WHY,
}
COPIES: Final = frozenset({EventsCopied.TYPE, EventsIngested.TYPE})
"""Types whose `lines` are events of a run that a peer executes: each is sealed as such."""
SEALABLE: Final = frozenset(PLACES) | COPIES
VIEW: Final = (*PLACES[RunCompleted.TYPE], *WHY)
"""Where content stands in the contract's `Run` object."""


class _Spot(NamedTuple):
    """One piece of content: what holds it, under which name, and where that is."""

    holder: dict[str, Any]
    name: str
    where: str
    kind: Kind


def seal_line(line: bytes, key_id: str, seal: Seal) -> bytes:
    """Return the line with its content under seal; a line without content is returned as it is."""
    whole = from_json(line)
    inner: dict[str, Any] = whole["event"]
    if inner["type"] in COPIES:
        return _each_copy(whole, lambda copy: seal_line(copy, key_id, seal))
    spots = list(_spots(inner["payload"], PLACES.get(inner["type"], ())))
    if not spots:
        return line
    mark = f"{key_id}/{inner['event_id']}"
    for spot in spots:
        value = spot.holder[spot.name]
        plain = value.encode() if spot.kind == "text" else to_json(value)
        _put_box(
            spot, mark, b64encode(seal(plain, _bound(inner, inner["event_id"], spot))).decode()
        )
    return to_json(whole)


def open_line(line: bytes, opening: Seal) -> bytes:
    """Return the line as it was before it was sealed; `ValueError` if its boxes do not open."""
    whole = from_json(line)
    inner: dict[str, Any] = whole["event"]
    if inner["type"] in COPIES:
        return _each_copy(whole, lambda copy: open_line(copy, opening))
    found = _opened(inner["payload"], PLACES.get(inner["type"], ()), inner, opening)
    return to_json(whole) if found else line


def erase_line(line: bytes) -> bytes:
    """Return what a sealed line shows once its key is destroyed."""
    whole = from_json(line)
    inner: dict[str, Any] = whole["event"]
    if inner["type"] in COPIES:
        return _each_copy(whole, erase_line)
    found = _erased(inner["payload"], PLACES.get(inner["type"], ()))
    return to_json(whole) if found else line


def _each_copy(whole: dict[str, Any], change: Callable[[bytes], bytes]) -> bytes:
    payload = whole["event"]["payload"]
    payload["lines"] = [change(copy.encode()).decode() for copy in payload["lines"]]
    return to_json(whole)


def view_key(view: Mapping[str, Any]) -> str:
    """Return the id of the key that a `Run` object's content is sealed with, else nothing."""
    for name in ("output", "error"):
        part = view.get(name)
        if isinstance(part, dict) and isinstance(mark := part.get(MARK), str):
            return mark.partition("/")[0]
    return ""


def open_view(view: Mapping[str, Any], opening: Seal | None) -> dict[str, Any]:
    """Return the `Run` object opened, or as it is shown without a key (`opening` is `None`)."""
    copy: dict[str, Any] = from_json(to_json(view))
    if opening is None:
        _erased(copy, VIEW)
    else:
        _opened(copy, VIEW, copy, opening)
    return copy


def _bound(who: Mapping[str, Any], event_id: str, spot: _Spot) -> bytes:
    """Return what a piece of content is bound to: it opens nowhere else."""
    return f"{who['tenant_id']}/{who.get('run_id') or ''}/{event_id}/{spot.where}".encode()


def _spots(payload: dict[str, Any], places: tuple[Place, ...]) -> Iterator[_Spot]:
    for path, kind in places:
        yield from _walk(payload, path, "", kind)


def _walk(at: Any, path: tuple[str, ...], where: str, kind: Kind) -> Iterator[_Spot]:
    name, *rest = path
    if name == "*":
        for number, item in enumerate(at if isinstance(at, list) else ()):
            yield from _walk(item, tuple(rest), f"{where}{number}.", kind)
    elif isinstance(at, dict) and at.get(name) is not None:
        if rest:
            yield from _walk(at[name], tuple(rest), f"{where}{name}.", kind)
        else:
            yield _Spot(at, name, where + name, _fitting(kind, at[name]))


def _fitting(kind: Kind, value: Any) -> Kind:
    """What a peer sent may be of another type than it should be: it is boxed whole."""
    fits = isinstance(value, str if kind == "text" else list)
    return kind if kind == "object" or fits else "object"


def _put_box(spot: _Spot, mark: str, box: str) -> None:
    if spot.kind == "text":
        spot.holder[spot.name] = box
        spot.holder[MARK] = mark
        return
    boxed = {MARK: mark, BOX: box}
    spot.holder[spot.name] = [boxed] if spot.kind == "list" else boxed


def _box(spot: _Spot) -> tuple[str, str] | None:
    """Return mark and box of a piece under seal; `None` for one that is not."""
    value = spot.holder[spot.name]
    if spot.kind == "text":
        return (mark, value) if isinstance(mark := spot.holder.get(MARK), str) else None
    if spot.kind == "list":
        value = value[0] if len(value) == 1 else None
    if isinstance(value, dict) and value.keys() == {MARK, BOX}:
        return value[MARK], value[BOX]
    return None


def _opened(
    payload: dict[str, Any], places: tuple[Place, ...], who: Mapping[str, Any], opening: Seal
) -> bool:
    marked: list[dict[str, Any]] = []
    found = False
    for spot in _spots(payload, places):
        if (sealed := _box(spot)) is None:
            continue
        found = True
        bound = _bound(who, sealed[0].partition("/")[2], spot)
        plain = opening(b64decode(sealed[1], validate=True), bound)
        is_text = spot.kind == "text"
        spot.holder[spot.name] = plain.decode() if is_text else from_json(plain)
        if is_text:
            marked.append(spot.holder)
    for holder in marked:
        del holder[MARK]
    return found


def _erased(payload: dict[str, Any], places: tuple[Place, ...]) -> bool:
    marked: list[dict[str, Any]] = []
    found = False
    for spot in _spots(payload, places):
        if (sealed := _box(spot)) is None:
            continue
        found = True
        if spot.kind == "text":
            spot.holder[spot.name] = ERASED
            marked.append(spot.holder)
            continue
        shown = {"erased": True, "subject": sealed[0].partition("/")[0].rpartition("-")[0]}
        spot.holder[spot.name] = [shown] if spot.kind == "list" else shown
    for holder in marked:
        del holder[MARK]
        holder["erased"] = True
    return found
