"""A commit's header block, and what may not stand in it."""

from dataclasses import replace

import pytest

from agentos.domain.errors import InternalError
from agentos.domain.log import Lease
from agentos.infra.jetstream.wire import decode, encode_headers, parse_headers
from tests.contracts.logs import commit, run


def test_the_block_is_what_the_log_holds_for_ever() -> None:
    written = replace(
        commit(run("1"), 3, "agentos.run.started", "agentos.run.step.started"),
        commit_id="cmt_1",
        command_id="cmd_1",
        causation_id="evt_1",
        lease=Lease("wrk_1", 99),
        base=2,
        priority="high",
    )
    assert encode_headers(written, 7) == (
        b"NATS/1.0\r\n"
        b"Nats-Expected-Last-Subject-Sequence: 7\r\n"
        b"Nats-Msg-Id: tnt_a/run/run_1:3:cmt_1\r\n"
        b"Agentos-First: 3\r\n"
        b"Agentos-Schema: 1\r\n"
        b"Agentos-Types: agentos.run.started,agentos.run.step.started\r\n"
        b"Agentos-Command: cmd_1\r\n"
        b"Agentos-Causation: evt_1\r\n"
        b"Agentos-Lease: wrk_1;99\r\n"
        b"Agentos-Base: 2\r\n"
        b"Agentos-Priority: high\r\n"
        b"\r\n"
    )


def test_empty_fields_are_left_out() -> None:
    block = encode_headers(replace(commit(run("1")), types=(), body=b""), 0)
    assert set(parse_headers(block)) == {
        "Nats-Expected-Last-Subject-Sequence",
        "Nats-Msg-Id",
        "Agentos-First",
        "Agentos-Schema",
    }


@pytest.mark.parametrize("bad", ["a\r\nNats-Rollup: all", "a\nb", "a\rb", "a\x00b"])
def test_a_value_never_breaks_out_of_its_line(bad: str) -> None:
    good = commit(run("1"))
    for wrong in (
        replace(good, command_id=bad),
        replace(good, causation_id=bad),
        replace(good, priority=bad),
        replace(good, lease=Lease(bad, 1)),
    ):
        with pytest.raises(ValueError, match="not fit for a header"):
            encode_headers(wrong, 0)


@pytest.mark.parametrize("fields", [{}, {"Nats-Msg-Id": "x", "Agentos-First": "one"}])
def test_a_foreign_message_is_an_error_and_never_skipped(fields: dict[str, str]) -> None:
    with pytest.raises(InternalError, match="was not written by AgentOS"):
        decode("log.0.tnt_a.run.run_1", 5, fields, b"")
