"""A route that knows its scope: credential, tenant and scope are settled before its endpoint."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from agentos.domain.auth import AuthContext
from agentos.domain.errors import (
    AgentOSError,
    ForbiddenError,
    NotFoundError,
    PolicyBlockedError,
    QuotaExceededError,
    RateLimitedError,
    TenantDisabledError,
    TenantMismatchError,
    TenantUnknownError,
    UnauthorizedError,
)
from agentos.domain.ids import is_named_id
from agentos.domain.tenant.access import HiddenError
from agentos.gateways.http.audited import COUNTED, LOOK, NODE_LOOK, audited
from agentos.gateways.http.authorization import OPEN, require, required_scope
from agentos.gateways.http.call import Call, Noted, call_of
from agentos.gateways.http.credentials import UnverifiedError
from agentos.gateways.http.denials import REFUSED, Denials, of_caller
from agentos.gateways.http.errors import misfit
from agentos.gateways.http.identity import Identity
from agentos.gateways.http.looks import record_look
from agentos.gateways.http.metrics import Metrics
from agentos.gateways.http.parameters import Parameter
from agentos.gateways.http.schemas import ErrorBody
from agentos.gateways.http.tenants import Tenants, goes_on

Endpoint = Callable[[Request], Awaitable[ASGIApp]]
PARTS: Final = "agentos.parts"
REFUSALS: Final = (
    UnauthorizedError,
    ForbiddenError,
    TenantUnknownError,
    TenantDisabledError,
    TenantMismatchError,
    RateLimitedError,
)
DENIALS: Final = (*REFUSALS, HiddenError, QuotaExceededError, PolicyBlockedError)


class PeerGate(Protocol):
    """What is asked of callers who come through a peer, or over a door with certificates."""

    async def admit(self, scope: Scope, route: str, auth: AuthContext) -> None:
        """Return if the caller may go on, else raise one of `REFUSALS` or `NotFoundError`."""
        ...


@dataclass(slots=True)
class Gate:
    """What every route needs before its endpoint."""

    identity: Identity
    tenants: Tenants
    metrics: Metrics
    denials: Denials
    peers: PeerGate | None = None

    async def admit(self, scope: Scope, call: Call, needed: str) -> None:
        """Identify the caller and check the scope: credential, tenant, scope, in this order."""
        client = scope.get("client")
        source = client[0] if client else ""
        try:
            call.auth = auth = await self.identity.identify(scope["headers"], source)
            if auth.tenant_id not in self.tenants.active and not goes_on(auth):
                await self.tenants.require(auth.tenant_id)
            require(auth, needed)
            if self.peers is not None:
                await self.peers.admit(scope, call.route, auth)
        except REFUSALS as error:
            self._refused(error, _where(scope, call), source, call.auth)
            raise
        except NotFoundError as error:  # a peer asks for a run that did not come through it
            self.denied(scope, call, REFUSED, error)
            raise

    def _refused(
        self, error: AgentOSError, resource: str, source: str, auth: AuthContext | None
    ) -> None:
        reason = error.code
        if isinstance(error, UnverifiedError):
            reason, auth = error.reason, error.auth
        self.metrics.auth_failed(reason)
        self.denials.note(resource, reason, source, auth, _through(auth))

    def denied(self, scope: Scope, call: Call, action: str, error: AgentOSError) -> None:
        """Note a call that its endpoint, or a handler behind it, refused; never waits."""
        resource, reason = _resource(scope, call), error.code
        if isinstance(error, HiddenError):
            resource, reason = error.tenant_id[:256], "another_tenant"
        self._count(scope, call, action, Noted(resource, "denied", reason))

    def allowed(self, scope: Scope, call: Call, action: str) -> None:
        """Note a call that was answered and has no event; never waits."""
        self._count(scope, call, action, call.noted or Noted(_resource(scope, call)))

    def _count(self, scope: Scope, call: Call, action: str, noted: Noted) -> None:
        client = scope.get("client")
        self.denials.count(
            of_caller(
                call.auth,
                resource=noted.resource,
                outcome=noted.outcome,
                reason=noted.reason,
                source=client[0] if client else "",
                action=action,
                meta=(*noted.meta, ("route", _where(scope, call)), *_through(call.auth)),
                correlation_id=call.correlation_id,
                request_id=call.request_id,
            )
        )


def _where(scope: Scope, call: Call) -> str:
    return f"{scope['method']} {call.route}"


def _resource(scope: Scope, call: Call) -> str:
    """Return the innermost object that the path names, else the route itself."""
    found = next(reversed(scope.get("path_params", {}).values()), "")
    return found if is_named_id(found) else _where(scope, call)


def _through(auth: AuthContext | None) -> tuple[tuple[str, str], ...]:
    """Return the peer that a caller comes through, if any."""
    return () if auth is None or auth.stack_id is None else (("stack_id", auth.stack_id),)


class GuardedRoute(APIRoute):
    """FastAPI documents the route and finds it; the rest of its machinery is passed by.

    Its dependencies, threads and serialisation cost more than our endpoints themselves.
    """

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        method = next(iter(self.methods or ("GET",)))
        needed = required_scope(method, path)
        about = audited(method, path)
        is_look = about.how in (LOOK, NODE_LOOK)
        described = (options.get("openapi_extra") or {}).get("parameters", ())
        parameters = [one["name"] for one in described]

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            call = call_of(scope)
            call.route = path
            if b"%00" in scope["query_string"]:
                raise misfit(["query"], "holds a NUL character")
            if needed == OPEN:
                answer = await endpoint(Request(scope, receive))
                await answer(scope, receive, send)
                return
            gate = gate_of(scope)
            await gate.admit(scope, call, needed)
            try:
                if is_look:
                    await record_look(gate.denials.bus, scope, call, about, parameters)
                answer = await endpoint(Request(scope, receive))
                if about.how == COUNTED:
                    gate.allowed(scope, call, about.action)
                await answer(scope, receive, send)
            except DENIALS as error:
                if not error.is_recorded:
                    gate.denied(scope, call, about.action, error)
                raise

        self.app = serve


def gate_of(scope: Scope) -> Gate:
    """Return the gate that the app was made with."""
    return cast("Gate", scope["app"].state.gate)


def guarded_app(title: str, gate: Gate | None, parts: object = None) -> FastAPI:
    """Return an app whose routes are guarded; `Doorway` serves it and answers its errors.

    `gate` may be `None` for an app that is only asked for its document.
    """
    app = FastAPI(
        title=title,
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.router.route_class = GuardedRoute
    app.state.gate = gate
    app.state.parts = parts
    app.state.bodies = []  # the models of request bodies, for the document
    app.state.error_answers = {}  # by path: the shape of errors where it is not the contract's
    return app


def allowed_methods(app: FastAPI, path: str) -> list[str]:
    """Return every method that some route takes on a path."""
    routes = (route for route in app.routes if isinstance(route, APIRoute))
    found = (route.methods or () for route in routes if route.path_regex.match(path))
    return sorted({method for methods in found for method in methods})


def exact_routes(app: FastAPI) -> dict[tuple[str, str], ASGIApp]:
    """Return the routes whose paths have no parameters: they need no search."""
    routes = (route for route in app.routes if isinstance(route, GuardedRoute))
    found: dict[tuple[str, str], ASGIApp] = {}
    for route in routes:
        if not route.param_convertors:
            for method in route.methods or ():
                found.setdefault((method, route.path), route.app)
    return found


@dataclass(frozen=True, slots=True)
class Described:
    """What the OpenAPI document says of a route besides its path."""

    summary: str
    answers: Mapping[int, type[BaseModel] | str]
    parameters: Sequence[Parameter] = ()
    body: type[BaseModel] | None = None
    body_required: bool = True
    errors: Sequence[int] = ()
    error_model: type[BaseModel] = ErrorBody
    may_stream: bool = False
    tag: str = "runs"


def add(app: FastAPI, method: str, path: str, endpoint: Endpoint, about: Described) -> None:
    """Add a route; `authorization.SCOPES` must have it."""
    extra: dict[str, Any] = {"parameters": [p.described() for p in about.parameters]}
    if about.body is not None:
        extra["requestBody"] = {
            "required": about.body_required,
            "content": {"application/json": {"schema": _ref(about.body)}},
        }
    app.router.add_api_route(
        path,
        endpoint,
        methods=[method],
        response_model=None,
        summary=about.summary,
        description=inspect.getdoc(endpoint),
        operation_id=endpoint.__name__,
        tags=[about.tag],
        responses=_responses(about),
        openapi_extra=extra,
    )
    if about.body is not None:
        app.state.bodies.append(about.body)


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _responses(about: Described) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {}
    for status, answer in about.answers.items():
        if isinstance(answer, str):
            content = {answer: {"schema": {"type": "string"}}} if answer else {}
            found[status] = {"description": "done", **({"content": content} if content else {})}
        else:
            found[status] = {"description": "done", "model": answer}
    if about.may_stream:
        found[200]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    for status in about.errors:
        found[status] = {"description": "see the error's code", "model": about.error_model}
    return found
