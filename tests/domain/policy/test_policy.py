"""The life of a policy, as its events tell it."""

import pytest

from agentos.domain.envelope import Event
from agentos.domain.errors import NotFoundError
from agentos.domain.policy.builtin import default_document
from agentos.domain.policy.document import PolicyDocument
from agentos.domain.policy.policy import Policy, PolicyActivated, PolicyPublished, policy_ref
from tests.domain.given import T0, moment

EMPTY = PolicyDocument(name="Empty", rules=())


def policy(policy_id: str = "pol_a") -> Policy:
    return Policy(policy_ref("tnt_a", policy_id))


def given(found: Policy, events: list[Event]) -> Policy:
    for event in events:
        found.evolve(event)
    return found


def test_versions_count_and_wait_to_be_activated() -> None:
    found = policy()
    (first,) = found.publish(EMPTY, False, moment())
    assert first.payload == PolicyPublished(version=1, document=EMPTY)
    given(found, [first])
    assert found.active is None
    published, activated = found.publish(EMPTY, True, moment())
    assert (published.sequence, activated.sequence) == (2, 3)
    assert activated.payload == PolicyActivated(version=2)
    assert given(found, [published, activated]).active == 2


def test_an_earlier_version_may_be_activated_again() -> None:
    found = policy()
    for _ in range(2):
        given(found, found.publish(EMPTY, True, moment()))
    given(found, found.activate(1, moment()))
    assert found.active == 1
    assert found.activate(1, moment()) == []
    assert found.publish(EMPTY, False, moment())[0].payload == PolicyPublished(
        version=3, document=EMPTY
    )


def test_what_was_never_published_cannot_be_activated() -> None:
    with pytest.raises(NotFoundError):
        policy().activate(1, moment())
    found = policy()
    given(found, found.publish(EMPTY, False, moment()))
    with pytest.raises(NotFoundError):
        found.activate(2, moment())


def test_the_default_is_there_and_active_before_anything_is_published() -> None:
    found = policy("pol_default")
    assert found.active == 1
    assert found.versions[1].document == default_document()
    given(found, found.publish(EMPTY, False, moment()))
    assert (found.active, max(found.versions)) == (1, 2)


def test_its_views() -> None:
    found = policy()
    with pytest.raises(NotFoundError):
        found.view()
    given(found, found.publish(EMPTY, True, moment()))
    view = found.view()
    assert view["versions"] == [
        {
            "version": 1,
            "document": {"name": "Empty", "rules": []},
            "published_at": "2027-01-15T08:00:00.000Z",
            "published_by": "usr_anna",
        }
    ]
    assert found.time == T0
    summary = found.summary()
    assert "versions" not in summary
    assert summary["name"] == "Empty"
    assert "updated_at" not in policy("pol_default").summary()
