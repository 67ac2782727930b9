"""A policy as people write it: rules in order, each an effect and its conditions.

Other than elsewhere an unknown field is an error: a condition with a slip of the pen in its
name would make a rule hold where nobody meant it.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from agentos.domain.envelope import is_none
from agentos.domain.policy.facts import Direction

Effect = Literal["allow", "block", "redact", "require_approval"]
DAY_MINUTES: Final = 1440


def _one_star(value: str) -> str:
    if value.count("*") > 1:
        raise ValueError("a name takes one `*`, for any text in its place")
    return value


Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_one_star)]
Names = Annotated[tuple[Name, ...], Field(min_length=1, max_length=200)]
RuleName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Kinds = Annotated[tuple[Kind, ...], Field(min_length=1, max_length=100)]
Clock = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
Directions = Annotated[tuple[Direction, ...], Field(min_length=1, max_length=4)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ContentPattern(_Part):
    """A regular expression with a name: what it finds is called so, and redacted as `[NAME]`."""

    name: Kind
    regex: str = Field(min_length=1, max_length=256)
    ignore_case: bool = False


class TimeOfDay(_Part):
    """A time of day in UTC, `begin` included and `end` not; over midnight when `end` is earlier."""

    begin: Clock
    end: Clock

    def holds(self, now_ms: int) -> bool:
        """Whether that moment (epoch milliseconds) is in it."""
        minute = now_ms // 60_000 % DAY_MINUTES
        begin, end = _minute(self.begin), _minute(self.end)
        if begin <= end:
            return begin <= minute < end
        return minute >= begin or minute < end


def _minute(clock: str) -> int:
    return int(clock[:2]) * 60 + int(clock[3:])


class Circumstances(_Part):
    """Conditions on everything but the content: all that are named must hold.

    A list holds when one of its names does. A name may have one `*`.
    """

    direction: Directions | None = Field(default=None, exclude_if=is_none)
    model: Names | None = Field(default=None, exclude_if=is_none)
    tier: Names | None = Field(default=None, exclude_if=is_none)
    backend: Names | None = Field(default=None, exclude_if=is_none)
    tool: Names | None = Field(default=None, exclude_if=is_none)
    data_classification: Names | None = Field(default=None, exclude_if=is_none)
    region: Names | None = Field(default=None, exclude_if=is_none)
    purpose: Names | None = Field(default=None, exclude_if=is_none)
    time_of_day: TimeOfDay | None = Field(default=None, exclude_if=is_none)
    agent: Names | None = Field(default=None, exclude_if=is_none)
    principal: Names | None = Field(default=None, exclude_if=is_none)
    labels: dict[str, Names] | None = Field(
        default=None, min_length=1, max_length=50, exclude_if=is_none
    )


class When(Circumstances):
    """The same, and what must be found in the content: any of these kinds or patterns."""

    pii_types: Kinds | None = Field(default=None, exclude_if=is_none)
    content_patterns: tuple[ContentPattern, ...] | None = Field(
        default=None, min_length=1, max_length=64, exclude_if=is_none
    )

    @property
    def is_about_content(self) -> bool:
        """Whether something must be found in the content."""
        return self.pii_types is not None or self.content_patterns is not None


class Rule(_Part):
    """What happens when `when` holds and `unless` does not."""

    name: RuleName
    effect: Effect
    description: str | None = Field(default=None, max_length=1024, exclude_if=is_none)
    when: When = When()
    unless: Circumstances | None = Field(default=None, exclude_if=is_none)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.effect == "redact" and not self.when.is_about_content:
            raise ValueError("a redact rule names pii_types or content_patterns in `when`")
        if self.unless is not None and not self.unless.model_fields_set:
            raise ValueError("an empty `unless` would always hold")
        return self


class PolicyDocument(_Part):
    """A whole policy. The strongest effect wins; within one effect the first rule names it."""

    name: str = Field(min_length=1, max_length=256)
    description: str | None = Field(default=None, max_length=4096, exclude_if=is_none)
    rules: tuple[Rule, ...] = Field(max_length=200)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [rule.name for rule in self.rules]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two rules are called {name!r}")
        return self
