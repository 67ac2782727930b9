"""Request bodies: bytes in, a model out, and the contract's errors for all that does not fit."""

import math
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from agentos.domain.auth import AuthContext, PolicyContext, expand_scopes
from agentos.domain.errors import (
    ForbiddenError,
    InvalidJsonError,
    InvalidRequestError,
    TenantMismatchError,
)
from agentos.gateways.http.errors import misfit

M = TypeVar("M", bound=BaseModel)
BODY: Final = "agentos.body"
MAX_ERRORS: Final = 20
MAX_INTEGER: Final = 2**63
DIGITS_AS_ZERO: Final = bytes.maketrans(b"123456789", b"000000000")
HUNDREDS: Final = b"000"
LONG: Final = b"0" * 19  # of an integer that might not fit 64 bits
POWERS: Final = (b"e000", b"E000", b"e+000", b"E+000")  # of a float that might not be finite


class BodyAuth(BaseModel):
    """The `auth` member of a body: it may repeat the caller's tenant and narrow its scopes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tenant_id: str | None = None
    scopes: list[str] | None = None
    session: dict[str, Any] | None = None
    policy_context: PolicyContext | None = None


async def read_body(request: Request, model: type[M]) -> M:
    """Return the body as `model`.

    Raises `InvalidJsonError` for what is not JSON, and `InvalidRequestError` whose
    `details.errors` lists `{loc, msg}` for JSON that does not fit.
    """
    return parse_body(await read_raw(request), model)


async def read_raw(request: Request) -> bytes:
    """Return the body's bytes, as often as asked; `InvalidJsonError` when the client leaves."""
    scope, receive = request.scope, request.receive
    found: bytes | None = scope.get(BODY)
    if found is not None:
        return found
    pieces: list[bytes] = []
    is_over = False
    while not is_over:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidJsonError("the body ended early")
        pieces.append(message.get("body", b""))
        is_over = not message.get("more_body", False)
    raw = scope[BODY] = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return raw


def parse_body(raw: bytes, model: type[M]) -> M:
    """Return JSON bytes as `model`; as `read_body`. No type is bent: `0` is no boolean."""
    try:
        parsed = model.model_validate_json(raw, strict=True)
    except ValidationError as exc:
        raise _misfits(exc) from exc
    if _may_hold_misfits(raw):
        _check_values(from_json(raw), ["body"])
    return parsed


def _may_hold_misfits(raw: bytes) -> bool:
    """Whether there may be a NUL, no finite number, or an integer that does not fit 64 bits.

    One character is looked for in a twentieth of the time of two: it comes first.
    """
    if b"\\" in raw and b"\\u0000" in raw:
        return True
    if (b"N" in raw and b"NaN" in raw) or (b"I" in raw and b"Infinity" in raw):
        return True
    digits = raw.translate(DIGITS_AS_ZERO)
    return HUNDREDS in digits and (LONG in digits or any(power in digits for power in POWERS))


def _misfits(exc: ValidationError) -> InvalidRequestError | InvalidJsonError:
    found = exc.errors(include_url=False, include_context=False, include_input=False)
    if found and found[0]["type"] == "json_invalid":
        return InvalidJsonError(found[0]["msg"])
    errors = [{"loc": ["body", *error["loc"]], "msg": error["msg"]} for error in found[:MAX_ERRORS]]
    return InvalidRequestError("the body does not fit", errors=errors)


def _check_values(value: Any, loc: list[str | int]) -> None:
    """Raise for what JSON can spell and no store of ours can keep: NUL, NaN, huge integers."""
    match value:
        case str():
            if "\0" in value:
                raise misfit(loc, "holds a NUL character")
        case float():
            if not math.isfinite(value):
                raise misfit(loc, "is no finite number")
        case bool():
            return
        case int():
            if not -MAX_INTEGER <= value < MAX_INTEGER:
                raise misfit(loc, "does not fit 64 bits")
        case dict():
            for key, inner in value.items():
                _check_values(key, [*loc, key.replace("\0", "")])
                _check_values(inner, [*loc, key])
        case list():
            for at, inner in enumerate(value):
                _check_values(inner, [*loc, at])


def narrowed(auth: AuthContext, body: BodyAuth | None) -> AuthContext:
    """Return the caller's context as the body's `auth` narrows it; it never widens.

    Raises `TenantMismatchError` for another tenant, `ForbiddenError` for a scope that the
    credential lacks.
    """
    if body is None:
        return auth
    if body.tenant_id is not None and body.tenant_id != auth.tenant_id:
        raise TenantMismatchError("the body's auth names another tenant than the credential")
    changes: dict[str, Any] = {}
    if body.scopes is not None:
        asked = expand_scopes(frozenset(body.scopes))
        for scope in sorted(asked - auth.scopes):
            raise ForbiddenError("the credential lacks the scope", required_scope=scope)
        changes["scopes"] = asked
    if body.session is not None:
        changes["session"] = body.session
    if body.policy_context is not None:
        changes["policy_context"] = body.policy_context
    return auth.model_copy(update=changes)
