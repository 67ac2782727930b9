"""What every handler is given: the ports and the state kept in memory."""

from dataclasses import dataclass, field

from agentos.domain.aggregate import Moment
from agentos.domain.auth import AuthContext, Principal
from agentos.domain.envelope import Origin
from agentos.domain.policy.names import NameFinder
from agentos.domain.ports import Clock, ContentKeys, Contents, EventLog, NewId, RunQueue, Signals
from agentos.domain.retention.rules import NodeRetention
from agentos.handlers.admission import AdmissionDesks
from agentos.handlers.commands import Command
from agentos.handlers.crash import CrashPoint, never
from agentos.handlers.denials import Denials
from agentos.handlers.directory import Directory
from agentos.handlers.dispatch import Dispatcher
from agentos.handlers.ledgers import LedgerDesks
from agentos.handlers.metrics import HandlerMetrics
from agentos.handlers.subscribers import AccountsKeeper
from agentos.handlers.usage_desks import UsageDesks
from agentos.handlers.watch import LogWatch


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a handler process, put together in `app.py`.

    `subscribers` is `None` on a broker that takes no accounts: one that is not ours. `log` seals
    and opens content with `keys`, `contents` has it as it stands too; without them no tenant's
    content can be sealed.
    """

    log: EventLog
    clock: Clock
    new_id: NewId
    queue: RunQueue
    signals: Signals
    watch: LogWatch
    directory: Directory
    desks: AdmissionDesks
    dispatcher: Dispatcher
    ledgers: LedgerDesks
    usage: UsageDesks
    idempotency_ttl_ms: int
    crash_point: CrashPoint = never
    denials: Denials = field(default_factory=Denials)
    metrics: HandlerMetrics = field(default_factory=HandlerMetrics)
    subscribers: AccountsKeeper | None = None
    retention: NodeRetention = field(default_factory=NodeRetention)
    keys: ContentKeys | None = None
    contents: Contents | None = None
    names: NameFinder | None = None

    def moment(self, principal: Principal, traceparent: str, command_id: str = "") -> Moment:
        """Return the moment of a decision that is made now."""
        origin = Origin(traceparent, principal, command_id)
        return Moment(self.clock.now_ms(), self.new_id, origin)

    def moment_of(self, auth: AuthContext, command: Command) -> Moment:
        """Return the moment of a decision on a command: its audit record says who sent it."""
        origin = Origin(
            command.traceparent,
            auth.principal,
            command.command_id or "",
            correlation_id=command.correlation_id or "",
            tenant_id=auth.tenant_id,
        )
        return Moment(self.clock.now_ms(), self.new_id, origin)
