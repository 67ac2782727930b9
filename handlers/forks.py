"""The handler of a fork: a new run that begins with another's recorded past."""

from typing import Any

from agentos.domain.aggregate import read_events
from agentos.domain.auth import AuthContext
from agentos.domain.errors import ForbiddenError, NotFoundError, SubjectErasedError
from agentos.domain.privacy.subject import subject_of
from agentos.domain.run.events import ForkedFrom, RunCreated
from agentos.domain.run.forking import past_before, renewed
from agentos.domain.run.run import Run, run_ref
from agentos.handlers.commands import ForkRun
from agentos.handlers.parts import Parts
from agentos.handlers.runs import Beginning, begin_run


async def fork_run(parts: Parts, auth: AuthContext, command: ForkRun) -> dict[str, Any]:
    """Start a run that has done the first steps of another, and goes on by itself.

    It is the caller's run, of the same version of the agent, admitted as any other; the past is
    in its first commit. A fork of a sealed run is sealed. Returns `{run, position, existing}`.
    Raises `NotFoundError`,
    `InvalidStateTransitionError` for a step that the run never had or whose past has no end,
    `PayloadTooLargeError` for a past over the size of a commit, `SubjectErasedError` for one
    that was erased, and what `create_run` raises.
    """
    if "runs:read" not in auth.scopes:
        raise ForbiddenError("the scope runs:read is missing", required_scope="runs:read")
    tenant = await parts.directory.active_tenant(auth.tenant_id)
    ref = run_ref(auth.tenant_id, command.run_id)
    records = await parts.log.read(ref)
    source = Run(ref).fold(records)
    if source.status is None:
        raise NotFoundError("no such run")
    if not source.is_readable:
        raise SubjectErasedError("the data subject of the run was erased")
    await parts.directory.runnable(auth.tenant_id, source.agent_id)
    events = [event for record in records for event in read_events(record, Run.PAYLOADS)]
    beginning = Beginning(
        agent_id=source.agent_id,
        created=_created(auth, command, source),
        past=renewed(past_before(events, command.from_step), parts.new_id),
        is_sealed=bool(source.sealed),
    )
    at = parts.moment(auth.principal, command.traceparent, command.command_id or "")
    return await begin_run(parts, auth, tenant, beginning, at)


def _created(auth: AuthContext, command: ForkRun, source: Run) -> RunCreated:
    context = source.created.context
    if source.sealed:  # whoever forks it: the past stays its data subject's
        context = context | {"user_id": subject_of(source.created)}
    return source.created.model_copy(
        update={
            "context": context,
            "principal": auth.principal,
            "policy_context": auth.policy_context,
            "scopes": sorted(auth.scopes),
            "idempotency_key": command.idempotency_key,
            "correlation_id": command.correlation_id,
            "origin_stack_id": auth.stack_id,
            "parent_span_id": command.parent_span_id,
            "fork": ForkedFrom(run_id=command.run_id, from_step=command.from_step),
        }
    )
