"""Subjects: nothing of a caller's making changes where a message goes."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain import subjects
from agentos.domain.subjects import StreamRef, log_filter, log_ref, log_subject

BAD = [
    "",
    "a.b",
    "run_a.b",
    "run_*",
    "run_>",
    "*",
    ">",
    "run_a b",
    "run_a\n",
    "run_a\r\nPUB x",
    "run_\u2028",
    "run_é",
    "run_a\0",
    " run_a",
    "run_" + "a" * 101,
]
BUILDERS: list[Callable[[str], str]] = [
    lambda x: log_subject(0, StreamRef("tnt_a", "run", x)),
    lambda x: log_subject(0, StreamRef(x, "run", "run_a")),
    lambda x: log_filter(0, x, "run"),
    lambda x: subjects.delta("tnt_a", x),
    lambda x: subjects.delta(x, "run_a"),
    subjects.cancel_notice,
    lambda x: subjects.work("tnt_a", x),
    lambda x: subjects.work(x, "run_a"),
]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("build", BUILDERS)
def test_what_does_not_fit_never_becomes_a_subject(build: Callable[[str], str], bad: str) -> None:
    with pytest.raises(ValueError, match="not fit"):
        build(bad)


@given(st.text(max_size=30), st.sampled_from(BUILDERS))
def test_any_text_is_refused_or_stays_one_token(text: str, build: Callable[[str], str]) -> None:
    dots = build("run_x").count(".")
    try:
        subject = build(text)
    except ValueError:
        return
    assert subject.count(".") == dots
    assert not set(subject.replace(".>", "")) & set("*> \n\r\t\0")


def test_a_log_subject_and_its_stream() -> None:
    ref = StreamRef("tnt_a", "run", "run_1")
    assert log_subject(3, ref) == "log.3.tnt_a.run.run_1"
    assert log_ref("log.3.tnt_a.run.run_1") == ref


def test_the_single_aggregates_of_a_tenant_have_plain_names() -> None:
    for name in subjects.SINGLETONS:
        assert log_ref(log_subject(0, StreamRef("tnt_a", "quota", name))).aggregate_id == name


def test_the_fixed_ones() -> None:
    assert subjects.stream_name(0) == "LOG_0"
    assert subjects.partition_subjects(0) == "log.0.>"
    assert log_filter(0, None, None) == "log.0.*.*.>"
    assert log_filter(0, "tnt_a", "run") == "log.0.tnt_a.run.>"
    assert subjects.command("run.create") == "cmd.run.create"
    assert subjects.heartbeat("executor", "wrk_1") == "hb.executor.wrk_1"
    assert subjects.cancel_notice("run_1") == "notice.cancel.run_1"
    assert subjects.work("tnt_a", "run_1") == "work.tnt_a.run_1"
    assert subjects.delta("tnt_a", "run_1") == "delta.tnt_a.run_1"
