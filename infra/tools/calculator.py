"""Arithmetic from text, read by a parser of its own: nothing is ever evaluated as Python.

Numbers, `+ - * / // % **` (and `^`, which is `**`), parentheses, the constants and functions
below, with Python's precedence and Python's results: whole numbers stay exact. Everything that
could grow is bounded before it is computed.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Final

from agentos.domain.errors import InvalidRequestError, ToolFailedError

MAX_LENGTH: Final = 1000
MAX_DEPTH: Final = 64
MAX_BITS: Final = 4096

Number = int | float

_TOKEN: Final = re.compile(
    r"[ \t\r\n]*(?:(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<operator>\*\*|//|[-+*/%^(),])|(?P<end>\Z))"
)
_BINDING: Final = {"+": 10, "-": 10, "*": 20, "/": 20, "//": 20, "%": 20, "**": 40, "^": 40}
_UNARY_BINDING: Final = 30

CONSTANTS: Final[Mapping[str, float]] = {"pi": math.pi, "e": math.e, "tau": math.tau}


def calculate(expression: str) -> Number:
    """Return the value of `expression`: an `int` of at most 4096 bits, or a finite `float`.

    Raises `InvalidRequestError` for what is no expression or too long or deep, and
    `ToolFailedError` for what has no value: a division by zero, the root of a negative number,
    a result that is too large.
    """
    if len(expression) > MAX_LENGTH:
        raise InvalidRequestError("the expression is too long", limit=MAX_LENGTH)
    try:
        return _Parser(expression).parse()
    except ZeroDivisionError as exc:
        raise ToolFailedError("division by zero", reason="division_by_zero") from exc
    except OverflowError as exc:
        raise _too_large() from exc
    except ValueError as exc:
        raise ToolFailedError("a function is not defined there", reason="domain") from exc


class _Parser:
    """A Pratt parser that computes as it reads; each instance reads one expression."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._kind = self._symbol = ""
        self._advance()

    def parse(self) -> Number:
        value = self._expression(0)
        if self._kind != "end":
            raise self._unexpected()
        return value

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise self._unexpected()
        self._at = match.end()
        self._kind = match.lastgroup or ""
        self._symbol = match[self._kind]

    def _unexpected(self) -> InvalidRequestError:
        return InvalidRequestError(
            "the expression cannot be read",
            errors=[{"loc": ["expression"], "msg": f"unexpected near character {self._at}"}],
        )

    def _expect(self, operator: str) -> None:
        if self._symbol != operator:
            raise self._unexpected()
        self._advance()

    def _expression(self, binding: int) -> Number:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidRequestError("the expression is nested too deeply", limit=MAX_DEPTH)
        left = self._operand()
        while (power := _BINDING.get(self._symbol, 0)) > binding:
            operator = self._symbol
            self._advance()
            right_associative = operator in ("**", "^")
            right = self._expression(_UNARY_BINDING - 1 if right_associative else power)
            left = _fits(_BINARY[operator](left, right))
        self._depth -= 1
        return left

    def _operand(self) -> Number:
        kind, symbol = self._kind, self._symbol
        self._advance()
        if kind == "number":
            return _fits(float(symbol) if any(c in symbol for c in ".eE") else int(symbol))
        if kind == "name":
            return self._named(symbol)
        if symbol == "(":
            value = self._expression(0)
            self._expect(")")
            return value
        if symbol in ("+", "-"):
            value = self._expression(_UNARY_BINDING)
            return value if symbol == "+" else -value
        raise self._unexpected()

    def _named(self, name: str) -> Number:
        if self._symbol != "(":
            if name in CONSTANTS:
                return CONSTANTS[name]
            raise InvalidRequestError("unknown name", name=name, known=sorted(CONSTANTS))
        if name not in FUNCTIONS:
            raise InvalidRequestError("unknown function", name=name, known=sorted(FUNCTIONS))
        self._advance()
        arguments = [self._expression(0)]
        while self._symbol == ",":
            self._advance()
            arguments.append(self._expression(0))
        self._expect(")")
        least, most, function = FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            raise InvalidRequestError("wrong number of arguments", name=name, given=len(arguments))
        return _fits(function(*arguments))


def _too_large() -> ToolFailedError:
    return ToolFailedError("the result is too large", reason="too_large", max_bits=MAX_BITS)


def _fits(value: Number | complex) -> Number:
    if isinstance(value, complex):
        raise ToolFailedError("the result is no real number", reason="domain")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _too_large()
    elif value.bit_length() > MAX_BITS:
        raise _too_large()
    return value


def _power(base: Number, exponent: Number) -> Number | complex:
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0:
        size = (abs(base).bit_length() - 1) * exponent
        if abs(base) > 1 and size > MAX_BITS:
            raise _too_large()
    result: Number | complex = base**exponent
    return result


def _rounded(value: Number, digits: Number | None = None) -> Number:
    if digits is None:
        return round(value)
    if not isinstance(digits, int) or abs(digits) > 308:
        raise InvalidRequestError("digits is a whole number of at most 308", name="round")
    return round(value, digits)


_BINARY: Final[Mapping[str, Callable[[Number, Number], Number | complex]]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "**": _power,
    "^": _power,
}
# name → least and most arguments, and the function
FUNCTIONS: Final[Mapping[str, tuple[int, int, Callable[..., Number]]]] = {
    "abs": (1, 1, abs),
    "ceil": (1, 1, math.ceil),
    "cos": (1, 1, math.cos),
    "exp": (1, 1, math.exp),
    "floor": (1, 1, math.floor),
    "ln": (1, 1, math.log),
    "log": (1, 2, math.log),
    "log10": (1, 1, math.log10),
    "log2": (1, 1, math.log2),
    "max": (1, 100, lambda *values: max(values)),
    "min": (1, 100, lambda *values: min(values)),
    "round": (1, 2, _rounded),
    "sin": (1, 1, math.sin),
    "sqrt": (1, 1, math.sqrt),
    "tan": (1, 1, math.tan),
}
