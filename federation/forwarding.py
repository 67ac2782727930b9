"""Forwards, durably: the intent is in the log before the call, the result after it."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Mapping
from typing import Any, Final

from agentos.domain.auth import AuthContext, PolicyContext, Principal
from agentos.domain.errors import (
    AgentOSError,
    ConflictError,
    ForwardFailedError,
    SubjectErasedError,
    error_from_wire,
)
from agentos.domain.federation.forward import (
    Forward,
    ForwardAccepted,
    ForwardRequested,
    forward_ref,
    keyed_forward_id,
)
from agentos.domain.federation.peer import PeerEntry, PeerUnreachableError
from agentos.domain.federation.remote import RemoteRun, remote_ref
from agentos.domain.federation.view import known_status
from agentos.domain.ids import is_named_id
from agentos.domain.subjects import StreamRef
from agentos.federation.book import PeerBook
from agentos.federation.credentials import Credentials
from agentos.federation.parts import PeerAnswer, Ports
from agentos.federation.refusals import is_retried, may_pass, refusal_of, retry_after
from agentos.federation.results import Call, Calls
from agentos.federation.unfinished import Unfinished

COMMAND_S: Final = 10.0
LONGEST_WAIT_S: Final = 5.0
GENERATIONS: Final = 1000
LONGEST_URL: Final = 1024
URL: Final = re.compile(r"[!-~]+")
log = logging.getLogger(__name__)


class RefusedError(Exception):
    """The peer has not taken the run, as far as is known.

    `is_definite` says that it answered, and that its answer is a no, or cannot be believed; else
    it may have the run, or take it the next time.
    """

    def __init__(self, error: AgentOSError, *, is_definite: bool = True) -> None:
        super().__init__(error.message)
        self.error = error
        self.is_definite = is_definite


class Forwarder:
    """Makes and finishes the forwards of this process; one call at a time for each of them.

    `on_accepted(ref, stack_id)` is told of each remote run, its copy's stream, and where it is.
    """

    def __init__(self, ports: Ports, book: PeerBook, credentials: Credentials) -> None:
        self._ports = ports
        self._book = book
        self._credentials = credentials
        self.calls = Calls()
        self.unfinished = Unfinished(self._settle)
        self.on_accepted: list[Any] = []

    async def known(
        self, auth: AuthContext, agent_id: str, key: str | None, now_ms: int
    ) -> Forward | None:
        """Return the forward that a key names already, if it is young enough to count."""
        if key is None:
            return None
        found = None
        for generation in range(GENERATIONS):
            forward_id = keyed_forward_id(
                auth.tenant_id, auth.principal.principal_id, agent_id, key, generation
            )
            forward = await self.read(forward_ref(auth.tenant_id, forward_id))
            if forward is None:
                break
            found = forward
        if found is None or now_ms - found.requested_at >= self._ports.peering.idempotency_ttl_ms:
            return None
        return found

    async def read(self, ref: StreamRef) -> Forward | None:
        """Return a forward as the log has it."""
        records = await self._ports.log.read(ref)
        return Forward(ref).fold(records) if records else None

    async def forward(
        self, auth: AuthContext, command: Mapping[str, Any]
    ) -> tuple[str, ForwardAccepted]:
        """Write the intent, call the peer, write the result; returns the forward's id with it.

        Once the intent is written the work goes on whether or not anybody waits. Raises what
        the peer refused, or `ForwardFailedError`.
        """
        answer = await self._ports.bus.send("forward.request", auth, command, timeout=COMMAND_S)
        self._ports.peering.crash_point("federation.after_intent")
        return await self.finish(answer["forward"], is_new=not answer["existing"])

    async def finish(
        self, view: Mapping[str, Any], *, is_new: bool = False
    ) -> tuple[str, ForwardAccepted]:
        """Bring a forward to its result; who comes meanwhile gets the same one.

        It returns once the peer has the run and it is this forward's. The result is written
        beside that: without it the intent stands, and is resumed with the same key. So does the
        intent of one that is not new (an answer may have been given for it) until the peer says
        yes or no.
        """
        if view["accepted"] is None:
            view = await asyncio.shield(self._call(view, is_new=is_new).answer)
        if view["error"] is not None and view["accepted"] is None:
            raise error_from_wire(view["error"])
        return view["forward_id"], ForwardAccepted.model_validate(view["accepted"])

    def _call(self, view: Mapping[str, Any], *, is_new: bool) -> Call:
        """Return the call of a forward that is in hand, or begin one."""
        ref = forward_ref(view["tenant_id"], view["forward_id"])
        call = self.calls.get(ref)
        if call is None:
            call = self.calls.begin(ref, self._finish(ref, view, is_new=is_new))
            call.task.add_done_callback(lambda done: self._ended(ref, done))
        return call

    def _ended(self, ref: StreamRef, done: "asyncio.Task[None]") -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            # No result is written: the intent stands, and is resumed.
            self.unfinished.add(ref, str(error))

    async def _finish(self, ref: StreamRef, view: Mapping[str, Any], *, is_new: bool) -> None:
        requested = ForwardRequested.model_validate(view["requested"])
        auth = caller_of(ref.tenant_id, requested)
        traceparent = str(view["traceparent"])
        common = {"forward_id": ref.aggregate_id, "traceparent": traceparent}
        try:
            run = await self._start_there(auth, requested, traceparent)
            self._ports.peering.crash_point("federation.after_call")
            remote = remote_ref(ref.tenant_id, run["remote_run_id"])
            await self._require_ours(ref, remote, requested.stack_id)
            self.calls.answered(ref, remote, _accepted(view, run, requested.stack_id))
            await self._accept(auth, {**common, **run}, requested.stack_id)
        except RefusedError as refused:
            if not (is_new or refused.is_definite):
                raise refused.error from refused
            self._ports.on_failure(refused.error.code)
            command = {**common, "error": refused.error.to_wire()}
            answer = await self._ports.bus.send("forward.fail", auth, command, timeout=COMMAND_S)
            self.calls.failed(ref, answer["forward"])
            return
        self._tell(remote, requested.stack_id)

    async def _require_ours(self, ref: StreamRef, remote: StreamRef, stack_id: str) -> None:
        """Raise `RefusedError` when the peer's run is another forward's already."""
        if await self._ports.log.last(remote) is not None:
            known = RemoteRun(remote).fold(await self._ports.log.read(remote))
            if known.linked.forward_id != ref.aggregate_id:
                raise RefusedError(_not_ours(stack_id))
        if self.calls.of_run(remote) not in (None, ref):
            raise RefusedError(_not_ours(stack_id))

    async def _accept(self, auth: AuthContext, command: Mapping[str, Any], stack_id: str) -> None:
        try:
            await self._ports.bus.send("forward.accept", auth, command, timeout=COMMAND_S)
        except ConflictError as error:
            raise RefusedError(_not_ours(stack_id)) from error

    def _tell(self, remote: StreamRef, stack_id: str) -> None:
        for tell in self.on_accepted:
            tell(remote, stack_id)

    async def _start_there(
        self, auth: AuthContext, requested: ForwardRequested, traceparent: str
    ) -> dict[str, Any]:
        """Start the run at the peer; the key is the same each time, so there is one run at most.

        Raises `RefusedError` for a no, and, not definite, when all attempts came to nothing.
        """
        retries = self._ports.peering.retries
        error: AgentOSError = _gone(requested.stack_id, "not asked")
        for attempt in range(1, retries.attempts + 1):
            known = self._book.get(requested.stack_id)
            if known is None:
                error = _gone(requested.stack_id, "it is no peer any more")
                raise RefusedError(error, is_definite=False)
            pause = retries.base_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
            try:
                answer = await self._ask(known.entry, auth, requested, traceparent)
            except PeerUnreachableError as exc:
                error = _gone(requested.stack_id, str(exc))
            else:
                if answer[0] in (200, 201):
                    known.sent += 1
                    return _run_of(answer, known.entry, auth.tenant_id, requested)
                error = refusal_of(answer, requested.stack_id)
                if not is_retried(answer):
                    raise RefusedError(error, is_definite=not may_pass(answer[0]))
                pause = max(pause, min(retry_after(answer), LONGEST_WAIT_S))
            log.warning("forward to %s, attempt %s: %s", requested.stack_id, attempt, error)
            if attempt < retries.attempts:
                await asyncio.sleep(pause)
        raise RefusedError(error, is_definite=False)

    async def _ask(
        self, peer: PeerEntry, auth: AuthContext, requested: ForwardRequested, traceparent: str
    ) -> PeerAnswer:
        headers = self._credentials.of_caller(peer, auth, traceparent)
        if requested.correlation_id:
            headers["X-Correlation-Id"] = requested.correlation_id
        body = {
            **requested.run_request,
            "idempotency_key": requested.idempotency_key,
            "auth": {
                "tenant_id": auth.tenant_id,
                "policy_context": auth.policy_context.model_dump(mode="json"),
            },
        }
        url = f"{peer.runs_url}/v1/agents/{requested.agent_id}/runs"
        return await self._ports.peering.client.call(
            peer, "POST", url, headers, body, timeout=self._ports.peering.retries.call_s
        )

    def resume(self, ref: StreamRef) -> None:
        """Finish a forward that an earlier process began."""
        self.unfinished.add(ref, "an earlier process began it")

    async def run(self) -> None:
        """Finish what was left, and what this process could not; until cancelled."""
        await self.unfinished.run()

    async def _settle(self, ref: StreamRef) -> None:
        """Bring a forward that was left to its result, and return once that is written."""
        forward = await self.read(ref)
        if forward is None:
            return
        if forward.accepted is not None:  # written, and its writer did not live to say so
            run_id, stack_id = forward.accepted.remote_run_id, forward.accepted.stack_id
            self._tell(remote_ref(ref.tenant_id, run_id), stack_id)
        elif forward.status == "requested" and (call := self.calls.get(ref)) is not None:
            await asyncio.shield(call.task)
        elif forward.status == "requested" and (why := self._past_help(forward)) is not None:
            await self._give_up(forward, why)
        elif forward.status == "requested":
            log.info("resuming %s at %s", ref.aggregate_id, forward.requested.stack_id)
            await asyncio.shield(self._call(forward.view(), is_new=False).task)

    def _past_help(self, forward: Forward) -> AgentOSError | None:
        """Return why a forward must not be sent any more, `None` for one that may be.

        There is nothing left to send of one whose content was erased; and once the peer has
        forgotten its key the same call would make a second run.
        """
        if not forward.is_readable:
            return SubjectErasedError("the data subject of the run was erased")
        age_ms = round(time.time() * 1000) - forward.requested_at
        if age_ms >= self._ports.peering.idempotency_ttl_ms:
            return _gone(forward.requested.stack_id, "not within the time that its key holds")
        return None

    async def _give_up(self, forward: Forward, error: AgentOSError) -> None:
        """End a forward that cannot be sent any more."""
        log.warning("%s is given up: %s", forward.ref.aggregate_id, error)
        auth = caller_of(forward.ref.tenant_id, forward.requested)
        command = {
            "forward_id": forward.ref.aggregate_id,
            "error": error.to_wire(),
            "traceparent": forward.traceparent,
        }
        await self._ports.bus.send("forward.fail", auth, command, timeout=COMMAND_S)

    async def close(self) -> None:
        """End the calls in hand; their intents stand."""
        await self.calls.close()


def caller_of(tenant_id: str, requested: ForwardRequested) -> AuthContext:
    """Return who asked for a forward, as its intent has it."""
    return AuthContext(
        tenant_id=tenant_id,
        principal=Principal.model_validate(requested.principal),
        scopes=frozenset(requested.scopes),
        policy_context=PolicyContext.model_validate(requested.policy_context),
    )


def _accepted(view: Mapping[str, Any], run: Mapping[str, Any], stack_id: str) -> dict[str, Any]:
    """Return a forward's view as it is once its result is written."""
    accepted = ForwardAccepted(
        stack_id=stack_id,
        remote_run_id=run["remote_run_id"],
        remote_events_url=run["remote_events_url"],
        status=run["status"],
    )
    return {**view, "accepted": accepted.model_dump(), "status": "accepted", "error": None}


def _run_of(
    answer: PeerAnswer, peer: PeerEntry, tenant_id: str, requested: ForwardRequested
) -> dict[str, Any]:
    """Return what to write of a run that the peer made; `RefusedError` when it cannot be ours."""
    status, body, _ = answer
    run = body.get("run")
    run = run if isinstance(run, dict) else {}
    run_id, path = run.get("run_id"), run.get("events_url")
    fits = (
        isinstance(run_id, str)
        and is_named_id(run_id)
        and run.get("tenant_id", tenant_id) == tenant_id
        and run.get("agent_id", requested.agent_id) == requested.agent_id
    )
    if not fits:
        raise RefusedError(_not_ours(peer.stack_id))
    # 200 says that the run was there: its first answer is lost, and a new run is queued.
    first = "queued" if status == 200 else run.get("status")
    created_at = run.get("created_at")
    return {
        "remote_run_id": run_id,
        "remote_events_url": _absolute(path, peer.runs_url, f"/v1/runs/{run_id}/events"),
        "status": known_status(first),
        "created_at": created_at if isinstance(created_at, str) and len(created_at) < 64 else None,
    }


def _absolute(path: object, base: str, otherwise: str) -> str:
    """Return a URL at the peer; what names another host or is no URL is not taken over."""
    if not (isinstance(path, str) and len(path) <= LONGEST_URL and URL.fullmatch(path)):
        return base + otherwise
    if path.startswith("/") and not path.startswith("//"):
        return base + path
    return path if path.startswith(base + "/") else base + otherwise


def _not_ours(stack_id: str) -> ForwardFailedError:
    return ForwardFailedError(
        "the peer answered with a run that is not the one it was asked for",
        stack_id=stack_id,
        retryable=False,
    )


def _gone(stack_id: str, why: str) -> ForwardFailedError:
    return ForwardFailedError(f"{stack_id} was not reached", stack_id=stack_id, reason=why[:300])
