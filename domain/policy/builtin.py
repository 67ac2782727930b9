"""The policy that holds where a tenant has published none under its name."""

from functools import cache
from typing import Final

from agentos.domain.policy.compiled import CompiledPolicy, compile_policy
from agentos.domain.policy.document import PolicyDocument

DEFAULT_POLICY: Final = "pol_default"
DEFAULT_VERSION: Final = "1"


@cache
def default_document() -> PolicyDocument:
    """Return the built-in `pol_default`: it redacts what identifies people, and blocks nothing."""
    kinds = ["email", "phone", "credit_card", "iban", "national_id", "secret"]
    return PolicyDocument.model_validate(
        {
            "name": "AgentOS default",
            "description": "Redacts personal data and secrets in input and output.",
            "rules": [
                {
                    "name": "personal_data_and_secrets",
                    "effect": "redact",
                    "when": {"direction": ["input", "output"], "pii_types": kinds},
                }
            ],
        }
    )


@cache
def default_policy() -> CompiledPolicy:
    """Return it ready to be gone by."""
    return compile_policy(DEFAULT_POLICY, DEFAULT_VERSION, default_document())
