"""What a policy may look at besides the content."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

Direction = Literal["input", "output", "tool_input", "tool_output"]


NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})


class Facts(NamedTuple):
    """One call as a policy sees it. What is not known is `None`: no condition on it holds.

    `now_ms` is epoch milliseconds; the time of day is UTC's.
    """

    direction: Direction = "input"
    model: str | None = None
    tier: str | None = None
    backend: str | None = None
    tool: str | None = None
    data_classification: str | None = None
    region: str | None = None
    purpose: str | None = None
    now_ms: int = 0
    agent_id: str | None = None
    principal_id: str | None = None
    labels: Mapping[str, str] = NO_LABELS
