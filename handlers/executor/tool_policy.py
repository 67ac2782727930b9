"""What a tenant's policy says of a tool's output, before anything of it is written down or read."""

import asyncio
from collections import OrderedDict
from typing import Any, Final

from agentos.domain.errors import PolicyBlockedError
from agentos.domain.policy.compiled import CompiledPolicy, compile_policy
from agentos.domain.policy.errors import PolicyProblemError
from agentos.domain.policy.facts import Facts
from agentos.domain.policy.names import FIXED, NameFinder
from agentos.domain.policy.policy import Policy, policy_ref
from agentos.domain.policy.texts import Field, collect, rewritten
from agentos.domain.ports import EventLog
from agentos.domain.tenant.tenant import Tenant

FRESH_S: Final = 1.0
CACHED: Final = 10_000
LONG: Final = 64 * 1024
PLACE: Final = "output"


class ToolPolicies:
    """The tenants' policies as far as they are about tools' outputs, at most a second old.

    A tenant whose policy has no such rule costs one look in a table for each call.
    """

    def __init__(self, log: EventLog, finder: NameFinder | None = None) -> None:
        self._log = log
        self._finder = finder
        self._known: OrderedDict[tuple[str, str], tuple[float, Policy, CompiledPolicy | None]] = (
            OrderedDict()
        )

    async def of(self, tenant: Tenant) -> CompiledPolicy | None:
        """Return the tenant's policy, `None` if none of its rules is about outputs of tools.

        Raises `PolicyBlockedError` when the tenant's policy cannot be gone by: nothing passes.
        """
        key = (tenant.ref.tenant_id, tenant.profile.default_policy_id)
        now = asyncio.get_running_loop().time()
        known = self._known.get(key)
        if known is not None and now - known[0] < FRESH_S:
            return known[2]
        ref = policy_ref(*key)
        policy = Policy(ref) if known is None else known[1]
        before = policy.position
        policy.fold(await self._log.read(ref, after=before))
        is_same = known is not None and policy.position == before
        compiled = known[2] if known is not None and is_same else _compiled(policy, self._finder)
        self._known[key] = (now, policy, compiled)
        if len(self._known) > CACHED:
            self._known.popitem(last=False)
        return compiled


def _compiled(policy: Policy, finder: NameFinder | None) -> CompiledPolicy | None:
    policy_id, active = policy.ref.aggregate_id, policy.active
    if active is None:
        raise PolicyBlockedError(
            "the tenant's policy has no active version", reasons=[f"policy_missing:{policy_id}"]
        )
    try:
        compiled = compile_policy(policy_id, str(active), policy.versions[active].document, finder)
    except PolicyProblemError as error:  # published by another version of AgentOS
        reasons = [f"policy_unusable:{policy_id}@{active}"]
        raise PolicyBlockedError(
            "the tenant's policy cannot be gone by", reasons=reasons
        ) from error
    return compiled if compiled.concerns("tool_output") else None


async def governed_output(policy: CompiledPolicy, output: Any, facts: Facts) -> Any:
    """Return a tool's output as it may be used. Raises `PolicyBlockedError`; nothing is kept then.

    Nobody can be asked about what a tool has answered: an approval that is asked for blocks it.
    """
    fields: list[Field] = []
    names: dict[str, None] = {}
    collect(output, PLACE, fields, names)
    if policy.finder is not None:
        await policy.finder.prepare([text for _, text in fields])
    fields.append((PLACE + FIXED, "\n".join(names)))
    if sum(len(text) for _, text in fields) > LONG:
        verdict = await asyncio.to_thread(policy.check, fields, facts)
    else:
        verdict = policy.check(fields, facts)
    if verdict.is_blocked:
        raise PolicyBlockedError(
            "policy does not allow this output", tool_id=facts.tool, reasons=list(verdict.reasons)
        )
    return rewritten(output, PLACE, verdict.apply) if verdict.redactions else output
