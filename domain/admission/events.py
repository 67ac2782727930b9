"""What the admission aggregates of a tenant say; `resource` tells which of them speaks."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.envelope import Payload, is_none

Resource = Literal["runs", "models", "storage", "tools"]


class Hold(BaseModel):
    """Amounts by unit that something may use at most, until it is settled.

    A `block` is a gateway's, to hand out in parts: what it has not handed out can come back.
    """

    model_config = ConfigDict(frozen=True)

    amounts: dict[str, int]
    reserved_at: int
    block: bool | None = Field(default=None, exclude_if=is_none)


class Counter(BaseModel):
    """What was used of one unit in one window: settled, and held at its worst case."""

    model_config = ConfigDict(frozen=True)

    start: int
    amount: int


class QuotaReserved(Payload):
    """Those runs hold a slot each, or those holds count at their worst case, from now on."""

    TYPE: ClassVar = "agentos.quota.reserved"
    resource: Resource = "runs"
    run_ids: list[str] | None = Field(default=None, exclude_if=is_none)
    active: int | None = Field(default=None, exclude_if=is_none)
    rate_us: int | None = Field(default=None, exclude_if=is_none)
    holds: dict[str, Hold] | None = Field(default=None, exclude_if=is_none)


class QuotaReleased(Payload):
    """Those runs' slots are free, those holds used nothing, or those parts of blocks come back.

    A block that gave parts back hands out nothing more.
    """

    TYPE: ClassVar = "agentos.quota.released"
    resource: Resource = "runs"
    run_ids: list[str] | None = Field(default=None, exclude_if=is_none)
    active: int | None = Field(default=None, exclude_if=is_none)
    hold_ids: list[str] | None = Field(default=None, exclude_if=is_none)
    parts: dict[str, dict[str, int]] | None = Field(default=None, exclude_if=is_none)


class QuotaSettled(Payload):
    """Those holds used so much in the end."""

    TYPE: ClassVar = "agentos.quota.settled"
    resource: Resource
    amounts: dict[str, dict[str, int]]


class QuotaExpired(Payload):
    """Nobody settled those holds: they count at their worst case for good."""

    TYPE: ClassVar = "agentos.quota.expired"
    resource: Resource
    hold_ids: list[str]


class QuotaBalanced(Payload):
    """The full state, so that a fold may begin here."""

    TYPE: ClassVar = "agentos.quota.balanced"
    resource: Resource = "runs"
    run_ids: dict[str, int] | None = Field(default=None, exclude_if=is_none)
    rate_us: int | None = Field(default=None, exclude_if=is_none)
    holds: dict[str, Hold] | None = Field(default=None, exclude_if=is_none)
    counters: dict[str, Counter] | None = Field(default=None, exclude_if=is_none)
