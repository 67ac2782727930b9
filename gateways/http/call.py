"""One request: its ids, its trace, its caller once known. Every layer reads it from the scope."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Final, Literal, NamedTuple, cast

from starlette.types import Scope

from agentos.domain.auth import AuthContext
from agentos.domain.ports import NewId
from agentos.domain.tracing.ids import NO_PARENT, child_of, log_fields

SCOPE_KEY: Final = "agentos.call"
UNMATCHED: Final = "unmatched"
PRINTABLE: Final = re.compile(rb"[\x20-\x7e]{1,256}")
TRACEPARENT: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
NOISE: Final = Random()  # noqa: S311 - trace ids are no secrets; the system's source is a call
Header = tuple[bytes, bytes]


class Noted(NamedTuple):
    """What the audit has of an allowed call that has no event: ids and decisions, no content."""

    resource: str
    outcome: Literal["allowed", "denied"] = "allowed"
    reason: str = ""
    meta: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Call:
    """What is known of a request. `route` is its template, never the path with its ids.

    `traceparent` is the request's own span, a part of the caller's (`parent_span_id`) where
    one was sent.
    """

    correlation_id: str
    request_id: str
    traceparent: str
    parent_span_id: str = NO_PARENT
    auth: AuthContext | None = None
    route: str = UNMATCHED
    status: int = 0
    is_stream: bool = False
    noted: Noted | None = None

    @property
    def caller(self) -> AuthContext:
        """Return the verified caller; only routes that ask for a scope have one."""
        if self.auth is None:
            raise RuntimeError("this route identifies nobody")
        return self.auth

    def continue_from(self, traceparent: str | None) -> None:
        """Be a part of the span that the body names instead, if it names one that fits."""
        if traceparent and TRACEPARENT.fullmatch(traceparent.encode("utf-8", "replace")):
            self.traceparent = continued(traceparent)
            self.parent_span_id = traceparent[36:52]

    def log_fields(self) -> dict[str, str]:
        """Return what a log line says of whose request it is about."""
        whose = {} if self.auth is None else {"tenant_id": self.auth.tenant_id}
        return whose | {"correlation_id": self.correlation_id} | log_fields(self.traceparent)

    def headers(self) -> list[Header]:
        """Return the headers that every answer to this request carries."""
        found = [
            (b"x-correlation-id", self.correlation_id.encode()),
            (b"x-request-id", self.request_id.encode()),
        ]
        if self.auth is not None:
            found.append((b"x-tenant-id", self.auth.tenant_id.encode()))
        return found


def begin_call(headers: Iterable[Header], new_id: NewId) -> Call:
    """Return the call of a request that just arrived.

    The caller's correlation id is taken over and its trace continued if they fit, else new
    ones begin.
    """
    correlation_id = sent = ""
    for name, value in headers:
        if name == b"x-correlation-id" and PRINTABLE.fullmatch(value):
            correlation_id = value.decode()
        elif name == b"traceparent" and TRACEPARENT.fullmatch(value):
            sent = value.decode()
    return Call(
        correlation_id=correlation_id or new_id("corr"),
        request_id=new_id("req"),
        traceparent=continued(sent) if sent else new_traceparent(),
        parent_span_id=sent[36:52] or NO_PARENT,
    )


def continued(traceparent: str) -> str:
    """Return a new span in the caller's trace."""
    return child_of(traceparent, f"{NOISE.getrandbits(64):016x}")


def new_traceparent() -> str:
    """Return the root of a new W3C trace, sampled."""
    return f"00-{NOISE.getrandbits(128):032x}-{NOISE.getrandbits(64):016x}-01"


def call_of(scope: Scope) -> Call:
    """Return the call that the outermost layer put in the scope."""
    return cast("Call", scope[SCOPE_KEY])
