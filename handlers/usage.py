"""The handler of ended model calls."""

from typing import Any

from agentos.domain.auth import AuthContext
from agentos.domain.envelope import Origin
from agentos.handlers.commands import RecordUsage
from agentos.handlers.parts import Parts


async def record_usage(parts: Parts, auth: AuthContext, command: RecordUsage) -> dict[str, Any]:
    """Write a batch of ended calls; returns `{position}`, durable.

    The same batch sent again, after an answer that did not arrive, is not written again: by
    any handler process, as long as `after` is a position from before it was first sent.
    """
    calls = [
        (call.usage, Origin(call.traceparent, call.principal, command.batch_id))
        for call in command.calls
    ]
    desk = parts.usage.desk(auth.tenant_id)
    return {"position": await desk.take(command.batch_id, calls, command.after)}
