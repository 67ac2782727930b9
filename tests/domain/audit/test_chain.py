"""The audit chain: every record is bound to the one before."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.audit.chain import NO_HASH, AuditChain, Entry, chain_hash, chain_ref
from agentos.domain.auth import Principal
from agentos.domain.log import Recorded, make_commit
from tests.domain.given import Ids, moment

ANNA = Principal(principal_id="usr_anna")


def entry(cause: str, reason: str | None = None) -> Entry:
    return Entry(ANNA, "keys.revoke", "key_1", "allowed", cause, reason=reason, meta={"count": 1})


def records_of(causes: list[str]) -> list[Recorded]:
    chain, written = AuditChain(chain_ref("tnt_a")), []
    for position, cause in enumerate(causes, 1):
        commit = make_commit(chain.ref, chain.record([entry(cause)], moment()), Ids())
        fields = {name: getattr(commit, name) for name in commit.__dataclass_fields__}
        written.append(Recorded(**fields, position=position))
    return written


def payloads(records: list[Recorded]) -> list[dict[str, Any]]:
    return [json.loads(line)["event"]["payload"] for r in records for line in r.lines()]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=8))
def test_each_record_holds_the_hash_of_the_one_before(causes: list[str]) -> None:
    before = NO_HASH
    for number, payload in enumerate(payloads(records_of(causes)), 1):
        assert payload["sequence"] == number
        assert payload["prev_hash"] == before
        before = payload["hash"]
        assert before == chain_hash(payload)


def test_a_change_is_seen() -> None:
    (payload,) = payloads(records_of(["evt_1"]))
    assert chain_hash(payload | {"action": "keys.issue"}) != payload["hash"]


def test_the_end_alone_is_enough_to_go_on() -> None:
    records = records_of(["evt_1", "evt_2", "evt_3"])
    whole = AuditChain(chain_ref("tnt_a")).fold(records)
    end = AuditChain(chain_ref("tnt_a")).fold(records[-1:])
    assert end == whole


def test_the_same_cause_gives_the_same_id() -> None:
    first, again = payloads(records_of(["evt_1", "evt_1"]))
    assert first["audit_id"] == again["audit_id"]
    assert first["hash"] != again["hash"]
