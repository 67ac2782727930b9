"""Path and query parameters: each says once how it is read and how it is documented."""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from starlette.requests import Request

from agentos.domain.errors import InvalidRequestError
from agentos.domain.ids import FREE_ID_PATTERN, NAMED_ID_PATTERN, is_named_id
from agentos.domain.times import to_ms
from agentos.gateways.http.errors import misfit

MAX_POSITION: Final = 2**63 - 1
LONGEST: Final = 1024


TEXT: Final[Mapping[str, Any]] = {"type": "string"}


class Parameter:
    """A parameter's place, name and schema in the document."""

    def __init__(
        self,
        name: str,
        about: str,
        place: Literal["path", "query", "header"] = "query",
        schema: Mapping[str, Any] = TEXT,
    ) -> None:
        self.name = name
        self.about = about
        self.place = place
        self.schema = schema

    def described(self) -> dict[str, Any]:
        """Return its OpenAPI parameter object."""
        return {
            "name": self.name,
            "in": self.place,
            "required": self.place == "path",
            "description": self.about,
            "schema": dict(self.schema),
        }

    def raw(self, request: Request) -> str | None:
        """Return its text, `None` when it was not sent; sent twice is an error."""
        if self.place == "header":
            return request.headers.get(self.name)
        texts = request.query_params.getlist(self.name)
        if len(texts) > 1:
            raise self.misfit("sent more than once")
        if texts and len(texts[0]) > LONGEST:
            raise self.misfit("too long")
        return texts[0] if texts else None

    def misfit(self, msg: str) -> InvalidRequestError:
        """Return the error that says what of it does not fit."""
        return misfit([self.place, self.name], msg)


class PathId(Parameter):
    """An id in the path; one that could not stand in a subject never gets further."""

    def __init__(self, name: str, about: str) -> None:
        super().__init__(name, about, "path", {"type": "string", "pattern": NAMED_ID_PATTERN})

    def read(self, request: Request) -> str:
        """Return the id."""
        text: str = request.path_params[self.name]
        if not is_named_id(text):
            raise self.misfit("not an id")
        return text


class PathName(Parameter):
    """An id in the path that never becomes part of a subject: any printable characters."""

    def __init__(self, name: str, about: str) -> None:
        super().__init__(name, about, "path", {"type": "string", "pattern": FREE_ID_PATTERN})

    def read(self, request: Request) -> str:
        """Return the id."""
        text: str = request.path_params[self.name]
        if not re.match(FREE_ID_PATTERN, text):
            raise self.misfit("not 1-256 printable characters")
        return text


class Number(Parameter):
    """A whole number within bounds."""

    def __init__(
        self, name: str, about: str, low: int, high: int, default: int | None = None
    ) -> None:
        schema: dict[str, Any] = {"type": "integer", "minimum": low, "maximum": high}
        if default is not None:
            schema["default"] = default
        super().__init__(name, about, "query", schema)
        self.low = low
        self.high = high
        self.default = default

    def read(self, request: Request) -> int | None:
        """Return the number, or the default."""
        text = self.raw(request)
        return self.default if text is None else self.parse(text)

    def parse(self, text: str) -> int:
        """Return the number that a text is: ASCII digits only."""
        if not (text.isascii() and text.isdigit() and len(text) <= 19):
            raise self.misfit("not a number")
        number = int(text)
        if not self.low <= number <= self.high:
            raise self.misfit(f"not from {self.low} to {self.high}")
        return number


class Time(Parameter):
    """A moment in RFC 3339."""

    def __init__(self, name: str, about: str) -> None:
        super().__init__(name, about, "query", {"type": "string", "format": "date-time"})

    def read(self, request: Request) -> int | None:
        """Return the milliseconds since the epoch."""
        text = self.raw(request)
        if text is None:
            return None
        try:
            moment = to_ms(text.replace(" ", "+"))  # a plus that a client forgot to escape
        except (ValueError, OverflowError) as exc:
            raise self.misfit("not an RFC 3339 time") from exc
        if not 0 <= moment < 253_402_300_800_000:
            raise self.misfit("out of range")
        return moment


class Choice(Parameter):
    """One of some words."""

    def __init__(self, name: str, about: str, *words: str) -> None:
        super().__init__(name, about, "query", {"type": "string", "enum": list(words)})

    def read(self, request: Request) -> str | None:
        """Return the word."""
        text = self.raw(request)
        if text is not None and text not in self.schema["enum"]:
            raise self.misfit(f"not one of {', '.join(self.schema['enum'])}")
        return text


class Flag(Parameter):
    """`true` or `false`."""

    def __init__(self, name: str, about: str) -> None:
        super().__init__(name, about, "query", {"type": "boolean", "default": False})

    def read(self, request: Request) -> bool:
        """Return whether it is set."""
        match self.raw(request):
            case None | "false" | "0":
                return False
            case "true" | "1":
                return True
            case _:
                raise self.misfit("not true or false")
