"""From a regular expression, the one of texts that end within it.

A stream may let out a text only up to where a match could still begin. For the expression
`abc` that is where `a`, `ab` or `abc` ends the text. This file derives, from the parsed
expression, another one that finds such an open end: it is what `regex` calls a partial match,
which the standard library does not have. It is on the safe side: it may call an end open that
is not, never the other way round.
"""

import re
from collections.abc import Iterable, Sequence
from re import _constants as c  # type: ignore[attr-defined, unused-ignore]  # no stubs; pinned by tests
from re import _parser  # type: ignore[attr-defined, unused-ignore]  # as above
from typing import Any

END = r"\Z"
Node = tuple[Any, Any]
CATEGORIES = {
    c.CATEGORY_DIGIT: r"\d",
    c.CATEGORY_NOT_DIGIT: r"\D",
    c.CATEGORY_SPACE: r"\s",
    c.CATEGORY_NOT_SPACE: r"\S",
    c.CATEGORY_WORD: r"\w",
    c.CATEGORY_NOT_WORD: r"\W",
}
PLACES = {
    c.AT_BOUNDARY: r"\b",
    c.AT_NON_BOUNDARY: r"\B",
    c.AT_BEGINNING: r"\A",
    c.AT_BEGINNING_STRING: r"\A",
    c.AT_END_STRING: r"\Z",
}


def parse(regex: str, flags: int = 0) -> tuple[list[Node], int]:
    """Return the parsed expression and its flags; `re.error` when it is none."""
    parsed = _parser.parse(regex, flags)
    return list(parsed), parsed.state.flags


def open_tail(pattern: re.Pattern[str]) -> str:
    """Return the expression that matches where a text, up to its end, may grow into a match.

    Lookahead is taken for granted, so it may stand at the end of the expression only, and look
    at one character.
    """
    nodes, flags = parse(pattern.pattern, pattern.flags & ~re.UNICODE)
    first, *rest = [node for node in nodes if not _looks_ahead(node)]
    inner = _begun(first, rest)
    return f"(?i:{inner})" if flags & re.IGNORECASE else f"(?:{inner})"


def _begun(first: Node, rest: Sequence[Node]) -> str:
    """Return what an end with at least one character of the match looks like."""
    if _is_zero_width(first):
        head, *others = rest
        return _print(first) + f"(?:{_begun(head, others)})"
    return _join([*_ends_within(first), _print(first) + _open(rest)])


def _open(nodes: Sequence[Node]) -> str:
    """Return what a text looks like that ends anywhere in the sequence, its very end included."""
    tail = END
    for node in reversed(_literals_joined(nodes)):
        if _looks_ahead(node):
            continue
        if node[0] is c.AT:
            # What lies behind the end of the text is not known: there it holds.
            tail = f"(?:{_print(node)}|{END}){tail}"
        elif _is_zero_width(node):
            tail = _print(node) + tail
        else:
            tail = _join([END, *_ends_within(node), _print(node) + tail])
    return tail


def _ends_within(node: Node) -> list[str]:
    """Return what texts look like that end within one part, behind its first character."""
    kind, value = node
    if kind is TEXT:
        return [_literal(value[:at]) + END for at in range(1, len(value))]
    if kind is c.SUBPATTERN:
        return [_flagged(value[1], _open(list(value[3])))]
    if kind is c.BRANCH:
        return [_open(list(branch)) for branch in value[1]]
    if kind in (c.MAX_REPEAT, c.MIN_REPEAT):
        _, high, inner = value
        parts = list(inner)
        if high == 0:
            return []
        if len(parts) == 1 and _is_single(parts[0]):
            return [f"{_print(parts[0])}{{1,{high}}}{END}"]
        before = f"(?:{_print_all(parts)}){{0,{high - 1}}}"
        return [before + _open(parts)]
    return []


TEXT = "text"  # a run of literals, as one part


def _literals_joined(nodes: Sequence[Node]) -> list[Node]:
    joined: list[Node] = []
    for node in nodes:
        if node[0] is c.LITERAL and joined and joined[-1][0] is TEXT:
            joined[-1] = (TEXT, joined[-1][1] + chr(node[1]))
        elif node[0] is c.LITERAL:
            joined.append((TEXT, chr(node[1])))
        else:
            joined.append(node)
    return joined


def _print_all(nodes: Iterable[Node]) -> str:
    return "".join(_print(node) for node in nodes)


def _print(node: Node) -> str:
    """Return a part as text again, its groups without names."""
    kind, value = node
    if kind is TEXT:
        return _literal(value)
    if kind is c.LITERAL:
        return _literal(chr(value))
    if kind is c.NOT_LITERAL:
        return f"[^{_in_class(value)}]"
    if kind is c.ANY:
        return "."
    if kind is c.IN:
        return f"[{''.join(_print_member(member) for member in value)}]"
    if kind is c.AT:
        return PLACES[value]
    if kind is c.SUBPATTERN:
        return _flagged(value[1], _print_all(value[3]))
    if kind is c.BRANCH:
        return _join([_print_all(branch) for branch in value[1]])
    if kind in (c.MAX_REPEAT, c.MIN_REPEAT):
        low, high, inner = value
        return f"(?:{_print_all(inner)}){{{low},{high}}}"
    return _print_look(kind, value)


def _flagged(added: int, inner: str) -> str:
    return f"(?i:{inner})" if added & re.IGNORECASE else f"(?:{inner})"


def _print_look(kind: Any, value: Any) -> str:
    direction, inner = value
    behind = "<" if direction < 0 else ""
    sign = "=" if kind is c.ASSERT else "!"
    return f"(?{behind}{sign}{_print_all(inner)})"


def _print_member(member: Node) -> str:
    kind, value = member
    if kind is c.NEGATE:
        return "^"
    if kind is c.RANGE:
        return f"{_in_class(value[0])}-{_in_class(value[1])}"
    if kind is c.CATEGORY:
        return CATEGORIES[value]
    return _in_class(value)


def _in_class(code: int) -> str:
    return f"\\U{code:08x}"


def _literal(text: str) -> str:
    return re.escape(text)


def _join(branches: Sequence[str]) -> str:
    return f"(?:{'|'.join(branches)})"


def _is_zero_width(node: Node) -> bool:
    return node[0] in (c.AT, c.ASSERT, c.ASSERT_NOT)


def _looks_ahead(node: Node) -> bool:
    return node[0] in (c.ASSERT, c.ASSERT_NOT) and node[1][0] > 0


def _is_single(node: Node) -> bool:
    return node[0] in (c.LITERAL, c.NOT_LITERAL, c.ANY, c.IN)
