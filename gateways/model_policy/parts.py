"""What the routes of the model door work with, handed in by the app."""

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from agentos.domain.ports import CommandBus, EventLog
from agentos.gateways.http.followed import Followed
from agentos.gateways.http.sse import Streams
from agentos.gateways.model_policy.calls import Pipeline
from agentos.gateways.model_policy.policies import Policies


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The ports and shared parts behind the routes.

    `known` holds tenants, policies and the catalog, fresh from the log.
    """

    bus: CommandBus
    log: EventLog
    known: Followed
    policies: Policies
    pipeline: Pipeline
    streams: Streams


def parts_of(request: Request) -> Parts:
    """Return the parts that the app was made with."""
    return cast("Parts", request.app.state.parts)
