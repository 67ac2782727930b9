"""Whatever is done to a chain is found, in an export and in the log; what was not, is not."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.audit.chain import AuditChain, Entry, chain_ref
from agentos.domain.audit.checkpoint import AuditCheckpoints, checkpoints_ref
from agentos.domain.audit.proof import fault_of, make_proof
from agentos.domain.audit.verification import ChainVerifier, export_line_of, verify_lines
from agentos.domain.auth import Principal
from agentos.domain.envelope import to_line
from agentos.domain.times import rfc3339
from agentos.infra.signing import is_signed
from tests.domain.audit.keys import signer
from tests.domain.given import Ids, moment

ANNA = Principal(principal_id="usr_anna", display_name='Anna \u20ac \U0001f600 \\ "x"')
KEYS = {signer().key_id: signer().public_key}
N = 23


def log_lines(count: int = N, seed: str = "evt") -> list[bytes]:
    """Return a chain of so many records as the log has it."""
    chain = AuditChain(chain_ref("tnt_a"))
    entries = [
        Entry(ANNA, "keys.revoke", f"key_{n}", "allowed", f"{seed}_{n}", meta={"n": n, "t": "\x1f"})
        for n in range(count)
    ]
    events = chain.record(entries, moment())
    return [to_line(event, rfc3339(event.time)) for event in events]


def export(lines: list[bytes]) -> list[bytes]:
    """Return lines of the log as an export has them."""
    return [export_line_of(line) for line in lines]


def checkpoints(records: list[bytes], sizes: tuple[int, ...] = (10, 8)) -> list[dict[str, Any]]:
    """Return signed checkpoints over the first records."""
    found, signed = AuditCheckpoints(checkpoints_ref("tnt_a")), []
    hashes = [json.loads(r)["hash"] for r in records]
    for size in sizes:
        part = hashes[found.covered : found.covered + size]
        (event,) = found.sign(part, signer(), moment(new_id=Ids()))
        signed.append(event.payload.model_dump())
    return signed


def checked(records: list[bytes], signed: list[dict[str, Any]]) -> ChainVerifier:
    """Verify an export."""
    return verify_lines(ChainVerifier("tnt_a", KEYS, is_signed), records, signed)


RECORDS = export(log_lines())
SIGNED = checkpoints(RECORDS)


def test_a_whole_chain_holds() -> None:
    verdict = checked(RECORDS, SIGNED)
    assert verdict.view() == {
        "tenant_id": "tnt_a",
        "records": N,
        "ok": True,
        "first_bad": None,
        "checkpoints": 2,
        "signed_to": 18,
        "keys": [signer().key_id],
    }


@given(st.integers(0, N - 1), st.data())
def test_a_flipped_bit_is_found_in_an_export(at: int, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, len(RECORDS[at]) * 8 - 1))
    changed = [*RECORDS[:at], flipped(RECORDS[at], bit), *RECORDS[at + 1 :]]
    bad = checked(changed, SIGNED).first_bad
    assert bad is not None
    assert bad.sequence == at + 1


@given(st.integers(0, N - 1), st.data())
def test_a_flipped_bit_is_found_in_the_log(at: int, data: st.DataObject) -> None:
    lines = log_lines()
    bit = data.draw(st.integers(0, len(lines[at]) * 8 - 1))
    lines[at] = flipped(lines[at], bit)
    verifier = ChainVerifier("tnt_a", KEYS, is_signed)
    for line in lines:
        verifier.log_line(line)
    assert verifier.first_bad is not None
    assert verifier.first_bad.sequence == at + 1


def flipped(line: bytes, bit: int) -> bytes:
    changed = bytearray(line)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


Change = Callable[[list[bytes], int], list[bytes]]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r, at: r[:at] + r[at + 1 :], id="dropped"),
        pytest.param(lambda r, at: [*r[: at + 1], r[at], *r[at + 1 :]], id="doubled"),
        pytest.param(lambda r, at: [*r[:at], r[at + 1], r[at], *r[at + 2 :]], id="swapped"),
    ],
)
@given(at=st.integers(0, N - 2))
def test_what_is_done_to_one_record_is_found(change: Change, at: int) -> None:
    bad = checked(change(RECORDS, at), SIGNED).first_bad
    assert bad is not None
    assert bad.sequence in (at + 1, at + 2)


@given(st.integers(0, 17))
def test_a_cut_end_is_found_up_to_the_newest_checkpoint(left: int) -> None:
    bad = checked(RECORDS[:left], SIGNED).first_bad
    assert bad is not None
    assert "cut" in bad.reason
    assert bad.sequence == left + 1


def test_behind_the_newest_checkpoint_a_cut_cannot_be_seen() -> None:
    assert checked(RECORDS[:18], SIGNED).first_bad is None


def test_a_chain_forged_as_a_whole_is_found() -> None:
    forged = export(log_lines(seed="other"))
    bad = checked(forged, SIGNED).first_bad
    assert bad is not None
    assert "other records" in bad.reason


def test_a_missing_checkpoint_and_a_foreign_key_are_found() -> None:
    assert checked(RECORDS, SIGNED[1:]).first_bad is not None
    foreign = ChainVerifier("tnt_a", {signer(2).key_id: signer(2).public_key}, is_signed)
    assert verify_lines(foreign, RECORDS, SIGNED).first_bad is not None


@pytest.mark.parametrize("member", sorted(SIGNED[0]))
def test_a_changed_checkpoint_is_found(member: str) -> None:
    changed = dict(SIGNED[0])
    value = changed[member]
    changed[member] = value + 1 if isinstance(value, int) else value[:-1] + "7x"[value[-1] == "7"]
    assert checked(RECORDS, [changed, SIGNED[1]]).first_bad is not None


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b"null", b"7", b"\xff", b"[" * 2000,
    b'{"audit_id":1.5}', b'{"audit_id":"","tenant_id":"","prev_hash":"","hash":""}'])  # fmt: skip
def test_what_is_no_record_is_bad_and_breaks_nothing(line: bytes) -> None:
    bad = checked([line, *RECORDS], []).first_bad
    assert bad is not None
    assert bad.sequence == 1


@given(st.integers(1, 18))
def test_a_record_is_proven_with_its_checkpoint_alone(sequence: int) -> None:
    proof = proof_of(sequence)
    assert fault_of(json.loads(json.dumps(proof)), is_signed) is None
    assert fault_of(proof, is_signed, trusted=signer().public_key) is None
    assert fault_of(proof, is_signed, trusted=signer(2).public_key) is not None


def proof_of(sequence: int) -> dict[str, Any]:
    signed = SIGNED[0] if sequence <= 10 else SIGNED[1]
    records = [json.loads(r) for r in RECORDS[signed["first"] - 1 : signed["sequence"]]]
    record = records[sequence - signed["first"]]
    return make_proof(record, [r["hash"] for r in records], signed, signer().public_key)


@given(st.integers(1, 18), st.data())
def test_a_proof_with_a_flipped_bit_holds_no_more(sequence: int, data: st.DataObject) -> None:
    text = json.dumps(proof_of(sequence), separators=(",", ":")).encode()
    changed = flipped(text, data.draw(st.integers(0, len(text) * 8 - 1)))
    try:
        found = json.loads(changed)
    except ValueError:
        return
    if found != json.loads(text):
        assert not isinstance(found, dict) or fault_of(found, is_signed) is not None
