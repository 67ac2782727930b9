"""How long what is kept: by kind, said by the node and, over it, by a tenant."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agentos.domain.envelope import is_none
from agentos.domain.errors import InvalidRequestError

Kind = Literal["runs", "remote_runs", "usage", "quota"]
KINDS: Final[tuple[Kind, ...]] = ("runs", "remote_runs", "usage", "quota")
FOREVER: Final = "forever"
AGE_PATTERN: Final = r"^(forever|[1-9][0-9]{0,8}[smhd])$"
UNITS: Final[Mapping[str, int]] = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
LEAST_MS: Final = UNITS["d"]
"""The shortest age outside of tests and trials: idempotency keys, cursors and copies last."""
KEPT_WHOLE: Final[Mapping[str, str]] = {
    "audit": "the audit's chains prove what happened",
    "tenants": "a tenant is what its events say",
    "keys": "a key is what its events say",
    "agents": "runs are decided by the versions of their agents",
    "policies": "calls were decided by the versions of their policies",
    "catalog": "calls were decided by the versions of the catalog",
}
ALSO: Final = {"tenant": "tenants", "key": "keys", "agent": "agents", "policy": "policies"}

Age = Annotated[str, Field(pattern=AGE_PATTERN)]


class Retention(BaseModel):
    """How long a tenant's events are kept, by kind; what is left out is as the node says.

    An age is a number and `s`, `m`, `h` or `d`, or `forever`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    runs: Age | None = Field(default=None, exclude_if=is_none)
    remote_runs: Age | None = Field(default=None, exclude_if=is_none)
    usage: Age | None = Field(default=None, exclude_if=is_none)
    quota: Age | None = Field(default=None, exclude_if=is_none)

    @model_validator(mode="before")
    @classmethod
    def _only_what_may_go(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name in value:
                kind = ALSO.get(str(name), str(name))
                if kind in KEPT_WHOLE:
                    raise ValueError(f"{name} is kept whole: {KEPT_WHOLE[kind]}")
        return value

    def age(self, kind: Kind) -> str | None:
        """Return what is said of a kind, `None` where nothing is."""
        said: str | None = getattr(self, kind)
        return said


@dataclass(frozen=True, slots=True)
class NodeRetention:
    """What the node says: ages by kind in ms (none is for ever), and where archives go.

    `least_ms` is the shortest age that anybody may ask for. Without archives what goes is gone,
    so usage, of which bills are made, is kept.
    """

    ages: Mapping[Kind, int] = field(default_factory=dict)
    least_ms: int = 0
    has_archive: bool = True

    @classmethod
    def of(cls, texts: Mapping[Kind, str], *, least_ms: int, has_archive: bool) -> Self:
        """Return what the texts of the settings say; `ValueError` for what cannot be."""
        rules = cls({}, least_ms, has_archive)
        ages = {kind: ms for kind, text in texts.items() if (ms := age_ms(text)) is not None}
        for kind in ages:
            if (problem := rules.problem(kind, texts[kind])) is not None:
                raise ValueError(problem)
        return cls(ages, least_ms, has_archive)

    def age_ms(self, own: Retention | None, kind: Kind) -> int | None:
        """Return the age at which a kind goes, `None` for never; the tenant's word goes first."""
        said = None if own is None else own.age(kind)
        age = self.ages.get(kind) if said is None else age_ms(said)
        if age is None or (kind == "usage" and not self.has_archive):
            return None
        return max(age, self.least_ms)

    def problem(self, kind: Kind, text: str) -> str | None:
        """Return why an age cannot be asked for, `None` if it can."""
        age = age_ms(text)
        if age is None:
            return None
        if age < self.least_ms:
            return f"{kind} are kept for {in_words(self.least_ms)} at least, not {text}"
        if kind == "usage" and not self.has_archive:
            return (
                "usage is what bills are made of: it goes only into an archive, and there is none"
            )
        return None

    def require(self, own: Retention | None) -> None:
        """Raise `InvalidRequestError` for a tenant's wish that cannot be met."""
        for kind in KINDS:
            said = None if own is None else own.age(kind)
            if said is not None and (problem := self.problem(kind, said)) is not None:
                raise InvalidRequestError(problem)


def age_ms(text: str) -> int | None:
    """Return an age in ms, `None` for ever; `ValueError` for what is no age."""
    if not re.fullmatch(AGE_PATTERN, text):
        raise ValueError(f"{text!r} is no age: a number and s, m, h or d, or {FOREVER}")
    return None if text == FOREVER else int(text[:-1]) * UNITS[text[-1]]


def in_words(ms: int) -> str:
    """Return an age as it is written."""
    unit = next(name for name in "dhms" if ms % UNITS[name] == 0 or name == "s")
    return f"{ms // UNITS[unit]}{unit}"
