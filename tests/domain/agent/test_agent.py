"""Agent: registered once, whole versions, deprecated."""

from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from agentos.domain.agent.agent import Agent, Definition, agent_ref
from agentos.domain.envelope import Event
from agentos.domain.errors import ConflictError, InvalidStateTransitionError, NotFoundError
from tests.domain.given import T0, moment, reread, types


def definition(version: str = "1", **more: object) -> Definition:
    return Definition.model_validate(
        {"name": "A", "model_ref": "builtin/echo", "version": version} | more
    )


def agent(*decisions: Sequence[Event]) -> Agent:
    known = Agent(agent_ref("tnt_a", "agt_a"))
    for events in decisions:
        for event in events:
            known.evolve(event)
    return known


def registered() -> Agent:
    known = agent()
    for event in known.register(definition(), moment()):
        known.evolve(event)
    return known


def test_register() -> None:
    events = agent().register(definition(), moment())
    assert types(events) == ["agent.registered"]
    assert (events[0].agent_id, events[0].run_id) == ("agt_a", None)
    known = agent(events)
    assert known.require_runnable() == definition()
    assert known.view() == {
        "agent_id": "agt_a",
        "tenant_id": "tnt_a",
        "status": "active",
        "created_at": "2027-01-15T08:00:00.000Z",
        "updated_at": "2027-01-15T08:00:00.000Z",
        "name": "A",
        "version": "1",
        "model_ref": "builtin/echo",
        "tools": [],
    }


def test_an_id_is_taken_once() -> None:
    with pytest.raises(ConflictError):
        registered().register(definition("2"), moment())


def test_a_new_version_becomes_current_and_the_old_one_stays() -> None:
    known = registered()
    for event in known.update(definition("2", tools=["tool.echo"]), moment(T0 + 1)):
        known.evolve(event)
    assert known.require_known().version == "2"
    assert set(known.versions) == {"1", "2"}


@pytest.mark.parametrize("version", ["1"])
def test_a_version_comes_once(version: str) -> None:
    with pytest.raises(ConflictError):
        registered().update(definition(version), moment())


def test_a_deprecated_agent_takes_no_runs() -> None:
    known = registered()
    for event in known.deprecate(moment()):
        known.evolve(event)
    with pytest.raises(InvalidStateTransitionError) as caught:
        known.require_runnable()
    assert caught.value.details == {"status": "deprecated"}
    with pytest.raises(InvalidStateTransitionError):
        known.deprecate(moment())
    assert known.require_known() == definition()


def test_what_was_never_registered_is_not_found() -> None:
    for decide in (
        lambda: agent().update(definition(), moment()),
        lambda: agent().deprecate(moment()),
        lambda: agent().require_runnable(),
        lambda: agent().view(),
    ):
        with pytest.raises(NotFoundError):
            decide()


def test_its_events_come_back_from_their_bytes() -> None:
    full = definition(
        "2",
        description="ü",
        instructions="\u2028😀",
        tools=["tool.echo"],
        memory={"namespace": "n"},
        limits={"max_steps": 3},
        trust_level="low",
        labels={"a": "b"},
    )
    known = registered()
    events = known.update(full, moment())
    assert reread(known, events) == events


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""},
        {"name": "\ud800"},
        {"model_ref": ""},
        {"tools": ["echo"]},
        {"tools": ["tool.a\n"]},
        {"limits": {"max_steps": 0}},
        {"memory": {"namespace": ""}},
        {"labels": {"a": 1}},
        {"version": ""},
        {"labels": {"\ud800": "x"}},
    ],
)
def test_a_definition_that_does_not_fit(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Definition.model_validate({"name": "A", "model_ref": "m"} | bad)
