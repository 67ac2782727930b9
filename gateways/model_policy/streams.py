"""A call whose answer is streamed, whatever its frames look like."""

import asyncio
from typing import Final, Protocol

from starlette.types import Receive, Scope, Send

from agentos.domain.errors import AgentOSError, DependencyUnavailableError
from agentos.domain.ports import ModelRequest
from agentos.gateways.http.call import call_of
from agentos.gateways.http.errors import as_our_error
from agentos.gateways.http.leaving import ClientLeftError, stopped_when_left
from agentos.gateways.http.sse import StreamLimits
from agentos.gateways.model_policy.calls import Begun, Caller, Completed
from agentos.gateways.model_policy.outlet import Outlet
from agentos.gateways.model_policy.own_headers import own_headers
from agentos.gateways.model_policy.parts import Parts

LIMITS: Final = StreamLimits()


class Frames(Protocol):
    """How an answer is spelled as events."""

    def text(self, delta: str) -> bytes:
        """Return the frames of a piece of text, and of what comes before the first."""
        ...

    def rest(self, done: Completed, correlation_id: str) -> bytes:
        """Return everything behind the text, with the clean end."""
        ...

    def failure(self, error: AgentOSError, correlation_id: str) -> bytes:
        """Return the frames that say why the answer broke off."""
        ...


class StreamedAnswer:
    """One streamed answer: an ASGI application that makes the call while it sends.

    An error before the first piece is raised, for an answer of its own.
    """

    def __init__(
        self,
        parts: Parts,
        caller: Caller,
        asked: ModelRequest,
        frames: Frames,
    ) -> None:
        self._parts = parts
        self._caller = caller
        self._asked = asked
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make the call and send its answer as it comes.

        The call ends with the connection, and when its caller is shut out.
        """
        streams = self._parts.streams
        outlet = Outlet(scope, send, LIMITS)
        frames = self._frames
        call = call_of(scope)
        correlation_id = call.correlation_id

        def take(delta: str) -> None:
            outlet.push(frames.text(delta))

        def begin(about: Begun) -> None:
            outlet.headers = own_headers(about)

        try:
            with stopped_when_left(scope), streams.answering(call.auth, outlet.clear):
                done = await self._parts.pipeline.chat(self._caller, self._asked, take, begin)
            if not outlet.has_begun:
                outlet.headers = own_headers(done.outcome)
            await outlet.finish(frames.rest(done, correlation_id))
        except ClientLeftError:
            await outlet.abandon()
        except asyncio.CancelledError:
            if outlet.has_begun:
                error = DependencyUnavailableError("the gateway stops", dependency="gateway")
                await outlet.finish(frames.failure(error, correlation_id))
            raise
        except Exception as exc:  # behind the head only the stream itself can say what failed
            if not outlet.has_begun:
                raise
            failure = frames.failure(as_our_error(exc, call.log_fields()), correlation_id)
            await outlet.finish(failure)
