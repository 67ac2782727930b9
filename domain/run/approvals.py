"""What of a run's tool calls a person must decide, and what was decided: a part of its state."""

from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.run.events import (
    ToolCallApprovalRequired,
    ToolCallApproved,
    ToolCallRejected,
)
from agentos.domain.times import rfc3339, to_ms

EXPIRED: Final = "approval_expired"
"""The reason of a rejection that nobody spoke: the time to decide was over."""
APPROVED: Final = "approved"
REJECTED: Final = "rejected"
Decision = Literal["approve", "reject"]


@dataclass(frozen=True, slots=True)
class Approval:
    """One question to a person. Times are epoch ms; `expires_ms` is `None` where none is set."""

    approval_id: str
    tool_call_id: str
    tool_id: str
    step_id: str
    reason: str
    asked_ms: int
    expires_ms: int | None = None
    decision: Decision | None = None
    by: str | None = None
    why: str | None = None
    decided_ms: int | None = None

    @property
    def status(self) -> str:
        """What became of it: pending, approved, rejected, or expired."""
        if self.decision is None:
            return "pending"
        if self.decision == "approve":
            return APPROVED
        is_late = self.by == SYSTEM_PRINCIPAL.principal_id and self.why == EXPIRED
        return "expired" if is_late else REJECTED

    def view(self) -> dict[str, Any]:
        """Return it as the API shows it, without the call's arguments."""
        view: dict[str, Any] = {
            "approval_id": self.approval_id,
            "status": self.status,
            "tool_call_id": self.tool_call_id,
            "tool_id": self.tool_id,
            "reason": self.reason,
            "requested_at": rfc3339(self.asked_ms),
        }
        if self.expires_ms is not None:
            view["expires_at"] = rfc3339(self.expires_ms)
        if self.decided_ms is not None:
            view |= {"decided_at": rfc3339(self.decided_ms), "by": self.by}
        if self.why is not None:
            view["comment"] = self.why
        return view


@dataclass(slots=True)
class Approvals:
    """All that were asked for, in their order; each is decided once.

    `asked` holds those without a decision by tool call, `granted` the approved calls that were
    not begun yet.
    """

    all: dict[str, Approval] = field(default_factory=dict)
    asked: dict[str, Approval] = field(default_factory=dict)
    granted: dict[str, Approval] = field(default_factory=dict)

    @property
    def expires_ms(self) -> int:
        """When the first of those without a decision is over; 0 where none ever is."""
        return min(
            (a.expires_ms for a in self.asked.values() if a.expires_ms is not None), default=0
        )

    def holds(self, tool_call_id: str) -> bool:
        """Whether a call waits for a decision, or was approved and not begun."""
        return tool_call_id in self.asked or tool_call_id in self.granted

    def ask(self, said: ToolCallApprovalRequired, step_id: str, time_ms: int) -> None:
        """Take in a question."""
        approval = Approval(
            approval_id=said.approval_id,
            tool_call_id=said.tool_call_id,
            tool_id=said.tool_id,
            step_id=step_id,
            reason=said.reason,
            asked_ms=time_ms,
            expires_ms=None if said.expires_at is None else to_ms(said.expires_at),
        )
        self.all[said.approval_id] = self.asked[said.tool_call_id] = approval

    def decide(self, said: ToolCallApproved | ToolCallRejected, time_ms: int) -> None:
        """Take in a decision."""
        is_yes = isinstance(said, ToolCallApproved)
        approval = replace(
            self.all[said.approval_id],
            decision="approve" if is_yes else "reject",
            by=said.by,
            why=said.reason,
            decided_ms=time_ms,
        )
        self.all[said.approval_id] = approval
        self.asked.pop(approval.tool_call_id, None)
        if is_yes:
            self.granted[approval.tool_call_id] = approval
