"""A tenant's policy: published version by version, one of which is active."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.auth import Principal
from agentos.domain.envelope import Event, Payload, by_type
from agentos.domain.errors import NotFoundError
from agentos.domain.policy.builtin import DEFAULT_POLICY, default_document
from agentos.domain.policy.document import PolicyDocument
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339


class PolicyPublished(Payload):
    """The policy has one more version: 1, 2, 3 … It holds once it is activated."""

    TYPE: ClassVar = "agentos.policy.published"
    version: int = Field(ge=1)
    document: PolicyDocument


class PolicyActivated(Payload):
    """This version of the policy holds from now on."""

    TYPE: ClassVar = "agentos.policy.activated"
    version: int = Field(ge=1)


@dataclass(frozen=True, slots=True)
class Version:
    """One version, when it was published (epoch ms; 0: it comes with AgentOS) and by whom."""

    number: int
    document: PolicyDocument
    time: int = 0
    principal: Principal | None = None

    def view(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        found: dict[str, Any] = {
            "version": self.number,
            "document": self.document.model_dump(mode="json"),
        }
        if self.time:
            found["published_at"] = rfc3339(self.time)
        if self.principal is not None:
            found["published_by"] = self.principal.principal_id
        return found


class Policy(Aggregate):
    """A policy as its events tell it.

    `pol_default` is there for every tenant: its version 1 is the one that comes with AgentOS,
    and active until the tenant activates one of its own, whose numbers begin at 2.
    """

    KIND: ClassVar = "policy"
    PAYLOADS: ClassVar = by_type(PolicyPublished, PolicyActivated)

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.versions: dict[int, Version] = {}
        self.active: int | None = None
        if ref.aggregate_id == DEFAULT_POLICY:
            self.versions[1] = Version(1, default_document())
            self.active = 1

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        payload = event.payload
        if isinstance(payload, PolicyPublished):
            number = payload.version
            self.versions[number] = Version(number, payload.document, event.time, event.principal)
        elif isinstance(payload, PolicyActivated):
            self.active = payload.version

    def publish(self, document: PolicyDocument, activate: bool, at: Moment) -> list[Event]:
        """Decide one more version, active at once if asked for."""
        published = PolicyPublished(version=max(self.versions, default=0) + 1, document=document)
        events = [next_event(self, published, at)]
        if activate:
            activated = PolicyActivated(version=published.version)
            second = next_event(self, activated, at)
            events.append(replace(second, sequence=second.sequence + 1))
        return events

    def activate(self, version: int, at: Moment) -> list[Event]:
        """Decide that a version holds; `NotFoundError` for one that is not there.

        The active one again changes nothing.
        """
        self.require_known()
        if version not in self.versions:
            raise NotFoundError("no such version of the policy", version=version)
        if version == self.active:
            return []
        return [next_event(self, PolicyActivated(version=version), at)]

    def require_known(self) -> None:
        """Raise `NotFoundError` for a policy that was never published."""
        if not self.versions:
            raise NotFoundError("no such policy")

    def summary(self) -> dict[str, Any]:
        """Return it as lists show it: without its documents."""
        self.require_known()
        latest = max(self.versions)
        shown = self.versions[self.active or latest].document
        found: dict[str, Any] = {
            "policy_id": self.ref.aggregate_id,
            "tenant_id": self.ref.tenant_id,
            "name": shown.name,
            "latest_version": latest,
            "active_version": self.active,
        }
        if self.time:
            found["updated_at"] = rfc3339(self.time)
        return found

    def view(self) -> dict[str, Any]:
        """Return it with all of its versions, the newest first."""
        ordered = sorted(self.versions.values(), key=lambda one: one.number, reverse=True)
        return {**self.summary(), "versions": [one.view() for one in ordered]}


def policy_ref(tenant_id: str, policy_id: str) -> StreamRef:
    """Return where a policy's events are."""
    return StreamRef(tenant_id, Policy.KIND, policy_id)
