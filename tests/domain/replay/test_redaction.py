"""Content goes, decisions stay: a redacted run replays to its redacted bytes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from agentos.domain.log import Recorded
from agentos.domain.replay.capsule import (
    CapsuleError,
    CapsuleRun,
    agent_line,
    read_runs,
    run_lines,
)
from agentos.domain.replay.redaction import CONTENT, redact_definition, redact_line
from agentos.domain.replay.replay import Replay, lines_digest
from agentos.domain.run.events import RUN_EVENTS
from tests.domain.replay.given import lines_of
from tests.domain.replay.recorder import DEFINITION, Recorder, kinds_of_runs

KINDS = sorted(kinds_of_runs())
SECRET = "anna@example.org"


def hide(text: str) -> str:
    return text.replace(SECRET, "[EMAIL]").replace("one", "[ONE]")


def nothing(text: str) -> str:
    return text


def with_secrets() -> Recorder:
    """A run that holds an address everywhere where content may stand."""
    made = Recorder(f"mail {SECRET}").start().model(f"I ask {SECRET}", ["tool.echo", "tool.echo"])
    made.tools([{SECRET: [SECRET, 1, None], "[EMAIL]": SECRET}])
    made.tools([SECRET]).model(f"it is {SECRET}")
    return made


def through(records: list[Recorded], redact: object) -> CapsuleRun:
    """Return a run as it comes out of a capsule."""
    text = [agent_line("tnt_a", "agt_a", DEFINITION, nothing)]
    _, block = run_lines(records, "agt_a", redact)  # type: ignore[arg-type]  # a redactor
    (run,) = read_runs([*text, *block.split(b"\n")])
    return run


def equal(run: CapsuleRun) -> bool:
    ref = run.records[0].ref
    replay = Replay(ref, lambda version: run.versions[version]).feed(run.records)
    return replay.result(run.head.digest).equal


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_replays_out_of_a_capsule(kind: str) -> None:
    records = kinds_of_runs()[kind].records
    whole = through(records, None)
    assert equal(whole)
    assert lines_of(whole.records) == lines_of(records)
    assert whole.head.digest == whole.head.original_digest == lines_digest(lines_of(records))
    hidden = through(records, hide)
    assert equal(hidden)
    assert hidden.head.original_digest == whole.head.digest


def test_nothing_of_what_is_hidden_is_left() -> None:
    records = with_secrets().records
    assert sum(SECRET.encode() in line for line in lines_of(records)) >= 6
    run = through(records, hide)
    assert not any(SECRET.encode() in line for line in lines_of(run.records))
    assert equal(run)
    assert run.head.redacted_events == 6
    assert run.head.digest != run.head.original_digest


def test_two_members_stay_two() -> None:
    lines = lines_of(through(with_secrets().records, hide).records)
    (output,) = (
        from_json(line)["event"]["payload"]["output"]
        for line in lines
        if b'"output":{' in line and b"run.completed" not in line
    )
    assert output == {"[EMAIL]": ["[EMAIL]", 1, None], "[EMAIL]#2": "[EMAIL]"}


def test_a_line_without_anything_to_hide_keeps_its_bytes() -> None:
    for line in lines_of(with_secrets().records):
        assert redact_line(line, nothing) is line


@given(st.sampled_from(KINDS), st.text(max_size=3), st.text(max_size=5))
def test_any_function_of_a_text_keeps_a_run_replaying(kind: str, was: str, now: str) -> None:
    pattern = re.compile(f"[{re.escape(was)}]") if was else re.compile("e")
    records = kinds_of_runs()[kind].records
    assert equal(through(records, lambda text: pattern.sub(now.replace("\\", ""), text)))


def test_every_type_of_a_run_that_has_content_is_known() -> None:
    texts = {"input", "output", "message", "reason", "by", "error", "context", "idempotency_key"}
    # A step's message is the decision's own; an approval's reason names a policy's rule.
    ours = {"agentos.run.step.started", "agentos.tool.call.approval_required"}
    for name, payload in RUN_EVENTS.items():
        if name in ours:
            continue
        fields = set(payload.model_fields) & texts
        assert fields <= {path[0] for path in CONTENT.get(name, ())}, name


def test_a_definition_decides_as_before() -> None:
    shown = redact_definition(DEFINITION, lambda text: text.upper())
    assert shown.instructions == "BE KIND"
    assert (shown.model_ref, shown.tools) == (DEFINITION.model_ref, DEFINITION.tools)


def test_text_that_is_no_capsule_is_refused() -> None:
    _, block = run_lines(with_secrets().records, "agt_a", None)
    lines = block.split(b"\n")
    for bad in (
        [b"x"],
        [b'{"event":{}}'],
        [b'{"run":1}'],
        [b'{"run":'],
        [b'{"agent":{}}'],
        lines[:-1],
        [*lines, lines[-1]],
        [lines[0], *lines[2:]],
    ):
        with pytest.raises(CapsuleError):
            list(read_runs(bad))


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b'{"run":', b'{"event":', b""])))
def test_any_lines_are_refused_or_nothing(lines: list[bytes]) -> None:
    try:
        assert list(read_runs(lines)) == []
    except CapsuleError:
        return
