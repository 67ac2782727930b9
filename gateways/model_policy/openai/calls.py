"""One call of an OpenAI client: its body, who makes it, and under which id."""

import hashlib
import re
from typing import Final

from starlette.types import Scope

from agentos.domain.auth import AuthContext
from agentos.domain.ids import FREE_ID_PATTERN, derived_id
from agentos.gateways.http.authorization import require
from agentos.gateways.http.bodies import BodyAuth, narrowed
from agentos.gateways.http.call import Call, call_of
from agentos.gateways.http.parameters import Parameter
from agentos.gateways.model_policy.calls import Caller

FREE_ID: Final = re.compile(FREE_ID_PATTERN)
SCOPE: Final = "models:invoke"
IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key", "repeated with the same body, the call returns its first answer", "header"
)


def begin(scope: Scope, raw: bytes, body_auth: BodyAuth | None) -> tuple[Caller, str]:
    """Return who calls, and the id of this request.

    With an `Idempotency-Key` the id follows from tenant, principal, route and key, and the
    body's digest tells a repeat from a misuse of the key. The id is in `X-Request-Id`.
    """
    call = call_of(scope)
    auth = call.caller
    if body_auth is not None:
        auth = narrowed(auth, body_auth)
        require(auth, SCOPE)
    key = _idempotency_key(scope)
    if key is None:
        return _caller(auth, call), call.request_id
    who = (auth.tenant_id, auth.principal.principal_id)
    call.request_id = derived_id("req", *who, f"{scope['method']} {call.route}", key)
    digest = hashlib.sha256(raw).hexdigest()
    return _caller(auth, call, digest), call.request_id


def _caller(auth: AuthContext, call: Call, fingerprint: str | None = None) -> Caller:
    return Caller(
        auth,
        call.correlation_id,
        call.traceparent,
        fingerprint=fingerprint,
        parent_span_id=call.parent_span_id,
    )


def _idempotency_key(scope: Scope) -> str | None:
    key: str | None = None
    for name, value in scope["headers"]:
        if name == b"idempotency-key":
            text = value.decode("utf-8", "replace")
            if key is not None or not FREE_ID.match(text):
                raise IDEMPOTENCY_KEY.misfit("not 1-256 printable characters, once")
            key = text
    return key
