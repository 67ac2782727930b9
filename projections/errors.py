"""Why a projector stops. Each message says where it stands and what to do next."""

from agentos.domain.subjects import StreamRef


class ProjectionError(Exception):
    """The root: the projector must not go on, and a restart alone changes nothing."""


class PositionTakenError(ProjectionError):
    """The stored position is not where this projector left it: another one moves it."""

    def __init__(self, name: str, expected: int, found: int | None) -> None:
        super().__init__(
            f"projection {name}: the position is {found}, this projector left it at {expected}; "
            "another projector is at work on this database, stop one of them"
        )


class LogBehindReadModelError(ProjectionError):
    """The log ends before the read model's position: it is not the log it was made from."""

    def __init__(self, head: int, position: int) -> None:
        super().__init__(
            f"the log is older than its read model: it ends at {head}, the read model stands at "
            f"{position}. Connect the log it was made from (or restore its backup); if this log "
            "is the right one, run `agentos replay rebuild`"
        )


class ProjectionVersionError(ProjectionError):
    """The stored tables were made by another version of the projection."""

    def __init__(self, name: str, stored: int, version: int) -> None:
        super().__init__(
            f"projection {name}: the tables are of version {stored}, this program has version "
            f"{version}; run `agentos replay rebuild`"
        )


class PoisonRecordError(ProjectionError):
    """A record does not fold; it is never skipped."""

    def __init__(self, name: str, position: int, ref: StreamRef, reason: str) -> None:
        super().__init__(
            f"projection {name}: the record at position {position} "
            f"({ref.tenant_id}/{ref.kind}/{ref.aggregate_id}) does not fold: {reason}. Nothing "
            "behind it is projected; run the version of AgentOS that wrote it, or report it"
        )
        self.position = position


class RebuildRunningError(ProjectionError):
    """Another rebuild works on this database."""


class SwitchBlockedError(ProjectionError):
    """The new tables cannot be put in: somebody reads the old ones without an end."""

    def __init__(self) -> None:
        super().__init__(
            "the new tables are ready, but a query or an open transaction holds the old ones; end "
            "it (`SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start`) and "
            "run the rebuild again"
        )


class RebuiltError(Exception):
    """The tables were replaced by a rebuild: read the position again and go on."""
