"""Whose tenants an administrator reaches, and what is the platform's alone to decide."""

from typing import Final

from agentos.domain.auth import AuthContext
from agentos.domain.errors import ForbiddenError, NotFoundError

ADMIN: Final = "tenants:admin"
PLATFORM: Final = "platform:admin"
PLATFORM_ROLE: Final = "platform_admin"


class HiddenError(NotFoundError):
    """Another tenant's, which the caller learns nothing of; only its own audit says that it is."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__("no such tenant")
        self.tenant_id = tenant_id


def is_platform_admin(auth: AuthContext) -> bool:
    """Whether the caller may administer any tenant: by its role, or by the scope itself."""
    return PLATFORM_ROLE in auth.roles or PLATFORM in auth.scopes


def require_admin(auth: AuthContext) -> None:
    """Raise `ForbiddenError` unless the caller may administer tenants at all."""
    if ADMIN not in auth.scopes:
        raise ForbiddenError(f"the scope {ADMIN} is missing", required_scope=ADMIN)


def require_reach(auth: AuthContext, tenant_id: str) -> None:
    """Raise `HiddenError` for another tenant than the caller's, unless it has the platform."""
    require_admin(auth)
    if auth.tenant_id != tenant_id and not is_platform_admin(auth):
        raise HiddenError(tenant_id)


def require_platform(auth: AuthContext, what: str) -> None:
    """Raise `ForbiddenError` for what a tenant may not decide about itself."""
    if not is_platform_admin(auth):
        raise ForbiddenError(f"only a platform admin may {what}", required_scope=PLATFORM)
