"""Every kind that a rule may name in `pii_types`, and the groups that stand for several."""

from collections.abc import Iterable, Mapping
from typing import Final

from agentos.domain.policy import names
from agentos.domain.policy.contacts import EMAIL, IP_ADDRESSES, PHONES
from agentos.domain.policy.errors import PolicyProblemError
from agentos.domain.policy.money import CREDIT_CARD, IBAN
from agentos.domain.policy.national_ids import NATIONAL_IDS
from agentos.domain.policy.recogniser import Recogniser
from agentos.domain.policy.secret_kinds import API_KEYS, OTHER_SECRETS

# Of two equally long matches at one place the kind that stands first is the redaction's.
RECOGNISERS: Final[tuple[Recogniser, ...]] = (
    *API_KEYS,
    *OTHER_SECRETS,
    CREDIT_CARD,
    IBAN,
    *NATIONAL_IDS,
    EMAIL,
    *IP_ADDRESSES,
    *PHONES,
)
KINDS: Final = tuple(dict.fromkeys(recogniser.kind for recogniser in RECOGNISERS))
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "api_key": tuple(dict.fromkeys(recogniser.kind for recogniser in API_KEYS)),
    "secret": tuple(dict.fromkeys(r.kind for r in (*API_KEYS, *OTHER_SECRETS))),
    "national_id": tuple(dict.fromkeys(recogniser.kind for recogniser in NATIONAL_IDS)),
}
# These have no form of their own: only a language model of some kind can tell them.
NEED_A_MODEL: Final = names.KINDS


def expand(wanted: Iterable[str], *, has_model: bool = False) -> tuple[str, ...]:
    """Return the kinds that are meant; `PolicyProblemError` for one that cannot be found here.

    `has_model` says that there is one for the kinds that have no form.
    """
    found: dict[str, None] = {}
    for name in wanted:
        if name in NEED_A_MODEL and not has_model:
            raise PolicyProblemError(
                f"{name!r} has no form to be found by, and no recogniser for it is installed "
                "(the extra `names`, see docs/policies.md): install it on every machine of the "
                "node, or take it out of `pii_types`, or name what must not pass in "
                "`content_patterns`"
            )
        if name not in KINDS and name not in GROUPS and name not in NEED_A_MODEL:
            known = (*KINDS, *GROUPS, *NEED_A_MODEL)
            raise PolicyProblemError(f"there is no kind {name!r}; there are {', '.join(known)}")
        found |= dict.fromkeys(GROUPS.get(name, (name,)))
    return tuple(found)
