"""The routes of tenants and their keys. The path names the object, the credential the caller."""

import time
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json
from starlette.requests import Request

from agentos.domain.auth import AuthContext
from agentos.domain.errors import ConflictError
from agentos.domain.tenant.access import ADMIN, require_platform, require_reach
from agentos.domain.tenant.tenant import Profile
from agentos.domain.times import to_ms
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.authorization import require
from agentos.gateways.http.bodies import BodyAuth, narrowed, parse_body, read_raw
from agentos.gateways.http.call import call_of
from agentos.gateways.http.errors import misfit
from agentos.gateways.http.parameters import Parameter, PathId
from agentos.gateways.orchestrator import admin_reading as reading
from agentos.gateways.orchestrator import admin_schemas as s
from agentos.gateways.orchestrator.parts import parts_of
from agentos.gateways.orchestrator.queries import CURSOR, LIMIT, read_command_id

M = TypeVar("M", bound=BaseModel)
TENANT_ID: Final = PathId("tenant_id", "the tenant's id")
KEY_ID: Final = PathId("key_id", "the key's id")
CONFIRM: Final = Parameter("confirm", "the tenant's id once more")
FIELDS: Final = frozenset(Profile.model_fields)
ERASE_S: Final = 25.0


class _Peek(BaseModel):
    tenant_create: Any = None


async def list_tenants(request: Request) -> Answer:
    """List tenants by id: all of them for a platform admin, else the caller's own."""
    call = call_of(request.scope)
    page = await reading.list_tenants(
        parts_of(request).log, call.caller, LIMIT.read(request) or 0, CURSOR.raw(request)
    )
    return _page_answer("tenants", page, call.correlation_id)


async def get_tenant(request: Request) -> Answer:
    """Return one tenant as it is now."""
    call = call_of(request.scope)
    tenant_id = TENANT_ID.read(request)
    tenant = await reading.load_tenant(parts_of(request).log, call.caller, tenant_id)
    return json_answer({"tenant": tenant.view()}, call.correlation_id)


async def create_tenant(request: Request) -> Answer:
    """Make a tenant; 409 when its id was ever given."""
    require_platform(call_of(request.scope).caller, "create a tenant")
    raw = await read_raw(request)
    if parse_body(raw, _Peek).tenant_create is None:
        body = parse_body(raw, s.TenantCreate)
        auth = _auth(request, body.auth)
    else:
        wrapped = parse_body(raw, s.TenantCreateWrapped)
        body = wrapped.tenant_create
        auth = _auth(request, wrapped.auth or body.auth)
    profile = body.model_dump(mode="json", include=set(FIELDS))
    profile["name"] = body.name or body.tenant_id
    return await _send(
        request, "tenant.create", auth, body.tenant_id, {"profile": profile}, status=201
    )


async def replace_tenant(request: Request) -> Answer:
    """Set a tenant's profile as a whole; what is left out has its default."""
    return await _update(request, s.TenantReplace, is_whole=True)


async def update_tenant(request: Request) -> Answer:
    """Change parts of a tenant's profile by a JSON merge patch; null brings the default back."""
    return await _update(request, s.TenantPatch, is_whole=False)


async def _update(
    request: Request, model: type[s.TenantReplace] | type[s.TenantPatch], *, is_whole: bool
) -> Answer:
    tenant_id = _reached(request)
    raw = await read_raw(request)
    body = parse_body(raw, model)
    if body.tenant_id not in (None, tenant_id):
        raise misfit(["body", "tenant_id"], "is another tenant than the path's")
    changes = {name: value for name, value in from_json(raw).items() if name in FIELDS}
    if not changes.get("name", True):
        del changes["name"]
    more = {"changes": changes, "is_whole": is_whole}
    return await _send(request, "tenant.update", _auth(request, body.auth), tenant_id, more)


async def enable_tenant(request: Request) -> Answer:
    """Let a tenant act again, at once."""
    tenant_id = _reached(request)
    body = await _optional_body(request, s.TenantAct)
    return await _send(request, "tenant.enable", _auth(request, body.auth), tenant_id, {})


async def disable_tenant(request: Request) -> Answer:
    """Let a tenant do nothing more; its runs end by themselves, or are canceled."""
    tenant_id = _reached(request)
    body = await _optional_body(request, s.TenantDisable)
    more = {"runs": body.runs}
    return await _send(request, "tenant.disable", _auth(request, body.auth), tenant_id, more)


async def delete_tenant(request: Request) -> Answer:
    """Remove a disabled tenant for ever; 409 while it is enabled or without `confirm`."""
    tenant_id = _reached(request)
    more = {"confirm": CONFIRM.raw(request) or ""}
    return await _send(request, "tenant.delete", _auth(request, None), tenant_id, more)


async def erase_subject(request: Request) -> Answer:
    """Destroy the key of a data subject's content; once this answers nobody reads it any more.

    `dry_run` only counts what would be reached. Done again it returns the last report.
    """
    tenant_id = _reached(request)
    body = parse_body(await read_raw(request), s.SubjectErase)
    if not body.dry_run and body.confirm != body.subject:
        raise ConflictError("confirm the erasure: confirm=<subject>")
    call, parts = call_of(request.scope), parts_of(request)
    command = {
        "tenant_id": tenant_id,
        "subject": body.subject,
        "dry_run": body.dry_run,
        "traceparent": call.traceparent,
        "correlation_id": call.correlation_id,
        "command_id": read_command_id(request),
    }
    auth = _auth(request, body.auth)
    answer = await parts.bus.send("subject.erase", auth, command, timeout=ERASE_S)
    erasure = answer["erasure"]
    rows = await parts.reads.count_sealed(tenant_id, erasure["key_id"])
    erasure["refolded"] = [{"projection": name, "rows": rows[name]} for name in rows]
    return json_answer(answer, call.correlation_id)


async def get_tenant_usage(request: Request) -> Answer:
    """Return what a tenant has used since midnight (UTC), and the runs that it has in hand."""
    call = call_of(request.scope)
    parts = parts_of(request)
    tenant = await reading.load_tenant(parts.log, call.caller, TENANT_ID.read(request))
    usage = await reading.usage_of(parts, tenant, time.time_ns() // 1_000_000)
    return json_answer({"usage": usage}, call.correlation_id)


async def list_keys(request: Request) -> Answer:
    """List a tenant's keys by id, the revoked ones too; secrets are never shown."""
    call = call_of(request.scope)
    parts, tenant_id = parts_of(request), TENANT_ID.read(request)
    limit, cursor = LIMIT.read(request) or 0, CURSOR.raw(request)
    page = await reading.list_keys(parts.log, call.caller, tenant_id, limit, cursor)
    await reading.add_last_used(page, tenant_id, parts.key_usage)
    return _page_answer("keys", page, call.correlation_id)


async def issue_key(request: Request) -> Answer:
    """Make a key; its secret is in this answer and nowhere else, a repeat is 409."""
    tenant_id = _reached(request)
    body = await _optional_body(request, s.KeyIssue)
    more = {
        "kind": body.kind,
        "name": body.name,
        "principal": _principal(body),
        "roles": body.roles,
        "scopes": body.scopes,
        "expires_at": _expiry(body.expires_at),
    }
    auth = _auth(request, body.auth)
    return await _send(request, "key.issue", auth, tenant_id, more, status=201)


async def rotate_key(request: Request) -> Answer:
    """Give a key a new secret; the old one holds `overlap_seconds` (3600) longer."""
    tenant_id, key_id = _reached(request), KEY_ID.read(request)
    body = await _optional_body(request, s.KeyRotate)
    more = {"key_id": key_id, "overlap_seconds": body.overlap_seconds}
    return await _send(request, "key.rotate", _auth(request, body.auth), tenant_id, more)


async def revoke_key(request: Request) -> Answer:
    """Let a key identify nobody, on every process at once."""
    tenant_id, key_id = _reached(request), KEY_ID.read(request)
    auth = _auth(request, None)
    return await _send(request, "key.revoke", auth, tenant_id, {"key_id": key_id})


def _reached(request: Request) -> str:
    """Return the tenant in the path; 404 for one that the caller does not reach."""
    tenant_id = TENANT_ID.read(request)
    require_reach(call_of(request.scope).caller, tenant_id)
    return tenant_id


async def _optional_body(request: Request, model: type[M]) -> M:
    raw = await read_raw(request)
    return parse_body(raw if raw.strip() else b"{}", model)


def _auth(request: Request, body: BodyAuth | None) -> AuthContext:
    auth = narrowed(call_of(request.scope).caller, body)
    require(auth, ADMIN)
    return auth


def _principal(body: s.KeyIssue) -> dict[str, Any] | None:
    if body.principal is not None:
        found = body.principal.model_dump(exclude_none=True)
        found["principal_type"] = _type(body.principal.principal_type)
        return found
    if body.principal_id is None:
        return None
    return {"principal_id": body.principal_id, "principal_type": _type(body.subject_type)}


def _type(sent: str) -> str:
    return "user" if sent == "user" else "service"


def _expiry(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return to_ms(text)
    except (ValueError, OverflowError) as exc:
        raise misfit(["body", "expires_at"], "not an RFC 3339 time") from exc


async def _send(
    request: Request,
    name: str,
    auth: AuthContext,
    tenant_id: str,
    more: Mapping[str, Any],
    status: int = 200,
) -> Answer:
    call = call_of(request.scope)
    command = {
        "tenant_id": tenant_id,
        "traceparent": call.traceparent,
        "correlation_id": call.correlation_id,
        "command_id": read_command_id(request),
        **more,
    }
    answer = await parts_of(request).bus.send(name, auth, command)
    answer.pop("position", None)
    return json_answer(answer, call.correlation_id, status)


def _page_answer(name: str, page: reading.Page, correlation_id: str) -> Answer:
    content: dict[str, Any] = {name: page.views}
    if page.next_cursor is not None:
        content["next_cursor"] = page.next_cursor
    return json_answer(content, correlation_id)
