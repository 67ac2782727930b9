"""What the parts of the auditor work with."""

from dataclasses import dataclass, field

from agentos.domain.aggregate import Moment
from agentos.domain.audit.checkpoint import Signer
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE, Origin
from agentos.domain.ports import Clock, EventLog, NewId
from agentos.handlers.auditor.metrics import AuditorMetrics
from agentos.handlers.crash import CrashPoint, never


@dataclass(frozen=True, slots=True)
class AuditorParts:
    """The parts of an auditor process, put together in `app.py`."""

    log: EventLog
    clock: Clock
    new_id: NewId
    signer: Signer
    crash_point: CrashPoint = never
    metrics: AuditorMetrics = field(default_factory=AuditorMetrics)

    def moment(self) -> Moment:
        """Return the moment of a decision that is made now, by AgentOS itself."""
        return Moment(self.clock.now_ms(), self.new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))
