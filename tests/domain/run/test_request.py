"""The request's limits: what is refused at the edge never reaches the log."""

from typing import Any

import pytest
from pydantic import ValidationError

from agentos.domain.run.request import MAX_INPUT_BYTES, RunRequest


def request(text: str = "hi", **more: Any) -> RunRequest:
    return RunRequest.model_validate({"input": {"type": "text", "text": text}} | more)


def test_the_defaults() -> None:
    asked = request()
    assert asked.context.model_dump() == {"locale": "en-US", "timezone": "UTC"}
    assert asked.run_options.model_dump() == {
        "priority": "normal",
        "timeout_ms": 180_000,
        "max_steps": 30,
        "stream_events": True,
        "dry_run": False,
    }
    assert asked.tooling.model_dump() == {}
    assert asked.idempotency_key is None


def test_unknown_fields_are_passed_over() -> None:
    assert request(color="red", context={"timezone": "Europe/Vienna", "x": 1}).context.timezone


@pytest.mark.parametrize("text", ["a" * MAX_INPUT_BYTES, "é" * (MAX_INPUT_BYTES // 2), "", "\0"])
def test_text_up_to_256_kib_of_utf8(text: str) -> None:
    assert request(text).input.text == text


LABELS_TOO_MANY = {str(n): "x" for n in range(65)}
DEEP: dict[str, Any] = {}
for _ in range(250):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    "bad",
    [
        {"input": None},
        {"input": {"type": "image", "text": "x"}},
        {"input": {"type": "text"}},
        {"input": {"type": "text", "text": 5}},
        {"input": {"type": "text", "text": "a" * (MAX_INPUT_BYTES + 1)}},
        {"input": {"type": "text", "text": "é" * (MAX_INPUT_BYTES // 2) + "a"}},
        {"input": {"type": "text", "text": "\ud800"}},
        {"input": {"type": "text", "text": "😀\udc00"}},
        {"context": {"timezone": "Mars/Olympus"}},
        {"context": {"timezone": "../../etc/passwd"}},
        {"context": {"timezone": "UTC\n"}},
        {"context": {"locale": ""}},
        {"context": {"locale": "\ud800"}},
        {"context": {"user_id": ""}},
        {"context": {"user_id": "a\n"}},
        {"context": {"user_id": "a\0"}},
        {"context": {"session_id": "a" * 257}},
        {"context": {"labels": {"a": 1}}},
        {"context": {"labels": LABELS_TOO_MANY}},
        {"context": {"labels": {"\ud800": "x"}}},
        {"context": {"labels": {"x": "\ud800"}}},
        {"context": {"metadata": {"x": ["\ud800"]}}},
        {"context": {"metadata": DEEP}},
        {"tooling": {"tool_allowlist": ["echo"]}},
        {"tooling": {"tool_denymap": ["tool.a\n"]}},
        {"tooling": {"tool_allowlist": ["tool.a"] * 257}},
        {"run_options": {"priority": "urgent"}},
        {"run_options": {"timeout_ms": 0}},
        {"run_options": {"max_steps": 0}},
        {"run_options": {"max_steps": 1.5}},
        {"idempotency_key": ""},
        {"idempotency_key": "a\0b"},
        {"idempotency_key": "a" * 257},
        {"idempotency_key": "\ud800"},
        {"idempotency_key": "line\n"},
    ],
    ids=lambda bad: repr(bad)[:60],
)
def test_what_does_not_fit_is_refused(bad: dict[str, Any]) -> None:
    body = {"input": {"type": "text", "text": "hi"}} | bad
    with pytest.raises(ValidationError):
        RunRequest.model_validate(body)


@pytest.mark.parametrize("key", ["a", "order 1 / ü 😀", "*.>", "x" * 256])
def test_a_key_is_any_printable_text(key: str) -> None:
    assert request(idempotency_key=key).idempotency_key == key


def test_metadata_is_any_json_that_can_be_read_back() -> None:
    metadata = {"a": [1, 2.5, None, {"b": "\u2028\0"}]}
    assert request(context={"metadata": metadata}).context.metadata == metadata
