"""What is tried on recorded traffic: a policy, a catalog (prices and routes), or quotas."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from agentos.domain.admission.budgets import Budget, model_budgets
from agentos.domain.models.catalog_rules import CatalogError, parse_catalog
from agentos.domain.models.routing import RoutingTable
from agentos.domain.policy.compiled import CompiledPolicy, compile_policy
from agentos.domain.policy.document import PolicyDocument
from agentos.domain.policy.errors import PolicyProblemError
from agentos.domain.policy.names import NameFinder
from agentos.domain.tenant.quotas import Quotas

PROPOSED: Final = "pol_proposed"
PARTS: Final = ("policy", "catalog", "quotas")
MARKS: Final = {"rules": "policy", "backends": "catalog", "routes": "catalog"}
ONES: Final = {"runs", "tools", "models", "storage"}


class ProposalError(Exception):
    """The file is nothing that can be tried; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What would hold; a part that is `None` stays as it was."""

    policy: CompiledPolicy | None = None
    table: RoutingTable | None = None
    budgets: tuple[Budget, ...] = ()


def read_proposal(raw: Any, finder: NameFinder | None = None) -> Proposal:
    """Return the proposal of a JSON value: `{policy?, catalog?, quotas?}`, or one of them alone.

    A policy about persons and places needs a `finder`. Raises `ProposalError`.
    """
    if not isinstance(raw, dict):
        raise ProposalError("it is no JSON object")
    parts = _parts(raw)
    return Proposal(
        policy=_policy(parts["policy"], finder) if "policy" in parts else None,
        table=_table(parts["catalog"]) if "catalog" in parts else None,
        budgets=_budgets(parts["quotas"]) if "quotas" in parts else (),
    )


def _parts(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    if raw and raw.keys() <= set(PARTS):
        return raw
    for mark, part in MARKS.items():
        if mark in raw:
            return {part: raw}
    models = raw.get("models")
    if isinstance(models, list):
        return {"catalog": raw}
    if raw and raw.keys() <= ONES:
        return {"quotas": raw}
    raise ProposalError(
        "it is neither a policy (rules), a catalog (backends, models, routes), quotas, "
        "nor an object of policy, catalog and quotas"
    )


def _policy(raw: Any, finder: NameFinder | None) -> CompiledPolicy:
    try:
        return compile_policy(PROPOSED, "0", PolicyDocument.model_validate(raw), finder)
    except (ValidationError, PolicyProblemError) as exc:
        raise ProposalError(f"the policy does not fit: {exc}") from exc


def _table(raw: Any) -> RoutingTable:
    try:
        return RoutingTable(parse_catalog(raw), 0)
    except CatalogError as exc:
        raise ProposalError(f"the catalog does not fit: {exc}") from exc


def _budgets(raw: Any) -> tuple[Budget, ...]:
    try:
        quotas = Quotas.model_validate(raw)
    except ValidationError as exc:
        raise ProposalError(f"the quotas do not fit: {exc}") from exc
    budgets = tuple(model_budgets(quotas.models)) if quotas.models else ()
    if not budgets:
        raise ProposalError("the quotas name no budget of models: token_budget or requests")
    return budgets
