"""Which models a tenant may use: its entitlements, narrowed by its own policy. Deny wins."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Any, Final, Protocol

from agentos.domain.models.catalog import TIERS, Tier
from agentos.domain.tenant.tenant import Entitlements, Profile

REMEMBERED: Final = 2_000


class Model(Protocol):
    """What entitlement looks at of a model."""

    @property
    def model_id(self) -> str:
        """`<backend>/<model>`."""
        ...

    @property
    def tier(self) -> Tier | None:
        """The tier that it is in, if any."""
        ...


class Entitled:
    """What one profile of a tenant allows. Patterns are names with `*` for any text.

    A pattern of models fits a whole id (`openai/gpt-5`), the bare name of a model on every
    backend, or the name that was asked for (`tier:fast`, an alias).
    """

    def __init__(self, entitlements: Entitlements, policy: Mapping[str, Any] | None = None) -> None:
        policy = policy or {}
        self._tiers = frozenset(entitlements.model_tiers_allowed)
        self._backends = _pattern(entitlements.model_backends_allowed)
        narrowed = (entitlements.models_allowed, _names(policy.get("allowed_models")))
        self._allowed = [_pattern(names) for names in narrowed if names is not None]
        denied = (entitlements.models_denied, _names(policy.get("denied_models")))
        self._denied = _pattern([name for names in denied for name in names or ()])
        self._known: dict[tuple[str, str, Tier | None], bool] = {}

    def allows(self, asked: str, model: Model) -> bool:
        """Whether the tenant may use `model` when it asks for `asked` (its id, or a route)."""
        key = (asked, model.model_id, model.tier)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[key] = self._decide(*key)
        return known

    def _decide(self, asked: str, model_id: str, tier: Tier | None) -> bool:
        backend, _, name = model_id.partition("/")
        names = (asked, model_id, name)
        needed = {tier, asked.removeprefix("tier:") if asked.startswith("tier:") else None}
        if any(one in TIERS and one not in self._tiers for one in needed):
            return False
        if not self._backends.fullmatch(backend):
            return False
        if any(map(self._denied.fullmatch, names)):
            return False
        return all(any(map(allowed.fullmatch, names)) for allowed in self._allowed)


def entitled(profile: Profile) -> Entitled:
    """Return what a tenant's profile allows; worth keeping for as long as the profile holds."""
    return Entitled(profile.entitlements, profile.policy)


def _names(value: object) -> Sequence[str] | None:
    """Return a policy's list of names; a lone name is a list of one."""
    if value is None:
        return None
    items: Iterable[object] = value if isinstance(value, list | tuple) else [value]
    return [str(item) for item in items]


def _pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Return one expression that any of `names` fits; only `*` is special in them."""
    plain = (name.replace("[", "[[]").replace("?", "[?]") for name in names)
    return re.compile("|".join(translate(name) for name in plain) or r"(?!)")
