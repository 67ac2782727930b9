"""What a verified credential comes to, and why one does not verify."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentos.domain.auth import ROLE_SCOPES, AuthContext, expand_scopes
from agentos.domain.errors import UnauthorizedError

SPLIT: Final = re.compile(r"[\s,]+")


class UnverifiedError(UnauthorizedError):
    """A credential that does not verify; `reason` is for the figures and the audit.

    `auth` is whom it once identified, where that is proven: a key that was revoked.
    """

    def __init__(self, message: str, reason: str, auth: AuthContext | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.auth = auth


@dataclass(frozen=True, slots=True)
class Verified:
    """Whom a credential identifies, until when (epoch seconds), and by which key if by one."""

    auth: AuthContext
    until: float
    key_id: str | None = None


def words(value: object) -> list[str]:
    """Return the words of a claim or header: a list, or text split at spaces and commas."""
    if isinstance(value, str):
        return [word for word in SPLIT.split(value) if word]
    if isinstance(value, list):
        return [word for word in value if isinstance(word, str)]
    return []


def role_scopes(roles: tuple[str, ...]) -> frozenset[str]:
    """Return everything that the roles give."""
    return frozenset[str]().union(*(ROLE_SCOPES.get(role, frozenset()) for role in roles))


def claimed_scopes(claims: Mapping[str, Any], roles: tuple[str, ...]) -> frozenset[str]:
    """Return what the roles give, narrowed to the scopes that the token lists, if it does.

    A token without roles has the scopes that it lists, and none when it lists none.
    """
    listed = next((claims[name] for name in ("scope", "scopes", "scp") if name in claims), None)
    given = role_scopes(roles)
    if listed is None:
        return given
    named = expand_scopes(frozenset(words(listed)))
    return named & given if roles else named
