"""The redactor of capsules: the built-in policy's eye for what is personal or secret."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from agentos.domain.policy.builtin import default_policy
from agentos.domain.policy.facts import Facts


@dataclass(frozen=True, slots=True)
class Redactor:
    """What redacts a text, and its name in the manifest."""

    name: str
    redact: Callable[[str], str]


def default_redactor() -> Redactor:
    """Return a redactor that takes out what `pol_default` redacts of a model's input."""
    policy, facts = default_policy(), Facts(direction="input")

    @lru_cache(maxsize=1024)
    def redact(text: str) -> str:
        return policy.check([("text", text)], facts).apply("text", text)

    return Redactor(policy.label, redact)
