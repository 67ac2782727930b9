"""Tools that need nothing but their arguments: `tool.echo`, `tool.calculate`, `tool.time`."""

from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import ConfigDict, Field

from agentos.domain.auth import AuthContext
from agentos.domain.errors import InvalidRequestError
from agentos.domain.ports import Clock, ToolCall
from agentos.domain.run.request import TIMEZONES
from agentos.domain.times import rfc3339
from agentos.infra.tools.calculator import MAX_LENGTH, calculate
from agentos.infra.tools.tool import Arguments, Tool, make_tool

MAX_EXACT_INTEGER: Final = 2**53 - 1


class EchoArguments(Arguments):
    """Anything."""

    model_config = ConfigDict(frozen=True, extra="allow")

    text: Any = Field(default=None, description="What to send back; other names are allowed too.")


class CalculateArguments(Arguments):
    """One expression."""

    expression: str = Field(
        min_length=1,
        max_length=MAX_LENGTH,
        description="Arithmetic: + - * / // % ** ( ), pi, e, sqrt(x), abs, min, max, round, log …",
    )


class TimeArguments(Arguments):
    """A time zone."""

    timezone: str = Field(default="UTC", max_length=64, description="An IANA name: Europe/Paris.")


def echo_tool() -> Tool[EchoArguments]:
    """Return `tool.echo`: its output is its arguments."""

    async def echo(auth: AuthContext, call: ToolCall, arguments: EchoArguments) -> Any:
        return dict(call.arguments)

    return make_tool("tool.echo", "Sends back what it is given.", EchoArguments, echo)


def calculate_tool() -> Tool[CalculateArguments]:
    """Return `tool.calculate`: its output is a number.

    A whole number beyond 2^53 - 1 either way, which JSON readers round, is a text of digits.
    """

    async def run(auth: AuthContext, call: ToolCall, arguments: CalculateArguments) -> Any:
        value = calculate(arguments.expression)
        if isinstance(value, int) and abs(value) > MAX_EXACT_INTEGER:
            return str(value)
        return value

    return make_tool("tool.calculate", "Computes an expression exactly.", CalculateArguments, run)


def time_tool(clock: Clock) -> Tool[TimeArguments]:
    """Return `tool.time`: `{time, timezone, local}`, the time in UTC and as it is there."""

    async def run(auth: AuthContext, call: ToolCall, arguments: TimeArguments) -> Any:
        if arguments.timezone not in TIMEZONES:
            raise InvalidRequestError("no such IANA time zone", timezone=arguments.timezone)
        now = clock.now_ms()
        local = datetime.fromtimestamp(now / 1000, UTC).astimezone(ZoneInfo(arguments.timezone))
        return {
            "time": rfc3339(now),
            "timezone": arguments.timezone,
            "local": local.isoformat(timespec="seconds"),
        }

    return make_tool("tool.time", "Tells the date and time.", TimeArguments, run)
