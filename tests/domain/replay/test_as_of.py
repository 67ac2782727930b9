"""An aggregate as it was: at every sequence and time, and who changed it."""

import pytest

from agentos.domain.admission.admission import Admission, admission_ref
from agentos.domain.admission.budgets import Budget
from agentos.domain.admission.ledger import Ask, Ledger, ledger_ref
from agentos.domain.agent.agent import Agent, Definition, agent_ref
from agentos.domain.aggregate import Aggregate, read_events
from agentos.domain.auth import Principal
from agentos.domain.errors import NotFoundError
from agentos.domain.log import Recorded
from agentos.domain.replay.as_of import Until, as_of
from agentos.domain.replay.states import run_state, state_of
from agentos.domain.run.run import Run
from agentos.domain.tenant.quotas import RunLimits
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.domain.times import rfc3339
from tests.domain.given import T0, Ids, moment, written
from tests.domain.replay.recorder import kinds_of_runs

BOB = Principal(principal_id="usr_bob", display_name="Bob")


@pytest.mark.parametrize("kind", sorted(kinds_of_runs()))
def test_a_run_at_every_sequence(kind: str) -> None:
    made = kinds_of_runs()[kind]
    run = Run(made.run.ref)
    for event in (e for r in made.records for e in read_events(r, Run.PAYLOADS)):
        run.evolve(event)
        found = as_of(run.ref, made.records, Until(sequence=event.sequence))
        assert found["sequence"] == event.sequence
        assert found["state"] == run_state(run)
        assert found["changed_by"]["event_id"] == event.event_id
    assert as_of(run.ref, made.records, Until())["state"] == run_state(made.run)


def test_who_changed_a_run() -> None:
    records = kinds_of_runs()["canceled_beside_a_result"].records
    ref = records[0].ref

    def who(sequence: int) -> object:
        return as_of(ref, records, Until(sequence=sequence))["changed_by"]["principal"]

    assert who(1) == {"principal_id": "usr_anna", "principal_type": "user"}
    worker = {"principal_id": "svc_agentos", "principal_type": "service", "worker_id": "wrk_1"}
    assert who(2) == worker
    assert who(9) == {"principal_id": "usr_a"}
    assert who(10) == worker


def written_by(aggregate: Aggregate, events: list[object], position: int) -> Recorded:
    record = written(aggregate, events, position)  # type: ignore[arg-type]  # events
    aggregate.fold([record])
    return record


def test_a_tenant_at_a_time() -> None:
    tenant, ids = Tenant(tenant_ref("tnt_a")), Ids()
    records = [
        written_by(tenant, list(tenant.create(Profile(name="A"), moment(T0, ids))), 1),
        written_by(tenant, list(tenant.update(Profile(name="B"), moment(T0 + 50, ids, BOB))), 2),
        written_by(tenant, list(tenant.disable("drain", moment(T0 + 90, ids))), 3),
    ]
    found = as_of(tenant.ref, records, Until(time_ms=T0 + 89))
    assert (found["at"], found["sequence"]) == (rfc3339(T0 + 89), 2)
    assert (found["state"]["name"], found["state"]["status"]) == ("B", "active")
    assert found["changed_by"]["principal"] == BOB.model_dump()
    assert found["changed_by"]["time"] == rfc3339(T0 + 50)
    with pytest.raises(NotFoundError):
        as_of(tenant.ref, records, Until(time_ms=T0 - 1))
    with pytest.raises(NotFoundError):
        as_of(tenant.ref, [], Until())


def test_an_agent_with_its_versions() -> None:
    agent, ids = Agent(agent_ref("tnt_a", "agt_a")), Ids()
    one = Definition(name="A", model_ref="builtin/echo")
    two = Definition(name="A", model_ref="builtin/echo", version="2")
    records = [
        written_by(agent, list(agent.register(one, moment(T0, ids))), 1),
        written_by(agent, list(agent.update(two, moment(T0 + 1, ids))), 2),
    ]
    assert as_of(agent.ref, records, Until(sequence=1))["state"]["versions"] == ["1"]
    assert as_of(agent.ref, records, Until(sequence=99))["state"]["versions"] == ["1", "2"]


def admitted(runs: int) -> list[Recorded]:
    admission, ids, records = Admission(admission_ref("tnt_a")), Ids(), []
    for n in range(1, runs + 1):
        free = [f"run_{n - 1}"] if n > 1 else []
        decided = admission.decide([f"run_{n}"], free, RunLimits(), moment(T0 + n, ids))
        records.append(written(admission, decided.events, n, admission.base))
        admission.written(decided.events, n)
    return records


def test_a_quota_of_runs_also_when_what_was_before_its_balance_is_purged() -> None:
    records = admitted(600)
    ref = admission_ref("tnt_a")
    balanced = next(n for n, r in enumerate(records) if "agentos.quota.balanced" in r.types)
    late = records[balanced:]
    last = records[-1].last_sequence
    assert as_of(ref, records, Until())["state"] == as_of(ref, late, Until())["state"]
    assert as_of(ref, late, Until())["sequence"] == last
    assert as_of(ref, late, Until())["state"] == {
        "resource": "runs",
        "active": 1,
        "runs": {"run_600": rfc3339(T0 + 600)},
    }
    with pytest.raises(NotFoundError):
        as_of(ref, late, Until(sequence=late[0].first_sequence))
    assert as_of(ref, records, Until(sequence=1))["state"]["runs"] == {"run_1": rfc3339(T0 + 1)}
    with pytest.raises(NotFoundError, match="beginning"):
        as_of(ref, records[5:9], Until())


def test_a_ledger() -> None:
    ledger, ids = Ledger(ledger_ref("tnt_a", "tools")), Ids()
    budgets = [Budget("minute", "calls", 10)]
    decided = ledger.decide([Ask("h1", {"calls": 1})], [], budgets, moment(T0, ids))
    record = written(ledger, decided.events, 1)
    found = as_of(ledger.ref, [record], Until())["state"]
    assert found["resource"] == "tools"
    assert found["holds"]["h1"]["amounts"] == {"calls": 1}
    ledger.fold([record])
    assert found == state_of(ledger)
