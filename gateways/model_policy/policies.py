"""The policies that hold, compiled once and kept: one look-up for a call that needs one."""

from collections import OrderedDict
from typing import Final

from agentos.domain.errors import NotFoundError, PolicyBlockedError
from agentos.domain.policy.builtin import DEFAULT_POLICY, DEFAULT_VERSION, default_policy
from agentos.domain.policy.compiled import CompiledPolicy, compile_policy
from agentos.domain.policy.errors import PolicyProblemError
from agentos.domain.policy.names import NameFinder
from agentos.domain.policy.policy import Policy, policy_ref
from agentos.domain.subjects import StreamRef
from agentos.domain.tenant.tenant import Tenant
from agentos.gateways.http.followed import Followed

KEPT: Final = 2_000
Key = tuple[str, str, int]


class Policies:
    """The policies of all tenants, as fresh as the tail that `followed` runs (kind `policy`).

    Without a `finder` a policy about persons and places cannot be gone by: nothing passes.
    """

    def __init__(self, followed: Followed, finder: NameFinder | None = None) -> None:
        self._followed = followed
        self._finder = finder
        self._compiled: OrderedDict[Key, CompiledPolicy] = OrderedDict()

    async def of(self, tenant: Tenant) -> CompiledPolicy:
        """Return the policy that holds for the tenant's calls.

        Raises `PolicyBlockedError` when its `default_policy_id` names none that could hold:
        nothing passes then. Raises `DependencyUnavailableError` when the log cannot be asked.
        """
        policy_id = tenant.profile.default_policy_id
        ref = policy_ref(tenant.ref.tenant_id, policy_id)
        policy = self._followed.peek(Policy, ref)
        if policy is None or policy.active is None:
            policy = await self._get(ref)
        if policy.active is None:
            raise PolicyBlockedError(
                f"the tenant's policy {policy_id} has no active version: publish and activate "
                "it, or name another as default_policy_id",
                reasons=[f"policy_missing:{policy_id}"],
            )
        return self._compile(policy, policy.active)

    async def named(self, tenant_id: str, policy_id: str, version: int | None) -> CompiledPolicy:
        """Return one of a tenant's policies by its name, in its active version or another.

        Raises `NotFoundError` for what was never published, or is not active and no version
        is named.
        """
        policy = await self._get(policy_ref(tenant_id, policy_id))
        number = policy.active if version is None else version
        if number is None or number not in policy.versions:
            raise NotFoundError("no such policy, or no such version of it")
        return self._compile(policy, number)

    async def _get(self, ref: StreamRef) -> Policy:
        policy = await self._followed.get(Policy, ref)
        if policy.active is None:  # never refused from what may be stale
            policy = await self._followed.reload(Policy, ref)
        return policy

    def _compile(self, policy: Policy, number: int) -> CompiledPolicy:
        policy_id = policy.ref.aggregate_id
        if policy_id == DEFAULT_POLICY and str(number) == DEFAULT_VERSION:
            return default_policy()
        key = (policy.ref.tenant_id, policy_id, number)
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = _compiled(policy, number, self._finder)
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        else:
            self._compiled.move_to_end(key)
        return found


def _compiled(policy: Policy, number: int, finder: NameFinder | None) -> CompiledPolicy:
    policy_id = policy.ref.aggregate_id
    try:
        return compile_policy(policy_id, str(number), policy.versions[number].document, finder)
    except PolicyProblemError as error:  # published by another version of AgentOS
        raise PolicyBlockedError(
            f"the policy {policy_id}@{number} cannot be gone by: {error.problem}",
            reasons=[f"policy_unusable:{policy_id}@{number}"],
        ) from error
