import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentos.domain.errors import (
    AgentOSError,
    InvalidRequestError,
    ModelFailedError,
    RateLimitedError,
    TimedOutError,
)
from agentos.domain.ports import ChatMessage, EmbedRequest, ModelAnswer, ModelRequest, OnDelta
from agentos.infra.models.builtin import BuiltinBackend
from agentos.infra.models.script import MAX_PARALLEL_CALLS, Call, parse_script
from tests.infra.models.requests import caller, request


async def ask(model: str, asked: ModelRequest, on_delta: OnDelta | None = None) -> ModelAnswer:
    return await BuiltinBackend().chat(caller(), model, asked, on_delta)


async def converse(text: str, results: list[str]) -> tuple[list[list[Call]], ModelAnswer]:
    """Go on until there is an answer; the n-th call's result is `results[n]` or `r<n>`."""
    asked: list[list[Call]] = []
    behind: list[ChatMessage] = []
    for _ in range(200):
        answer = await ask("scripted", request("builtin/scripted", text, behind=behind))
        if not answer.tool_calls:
            return asked, answer
        behind.append(ChatMessage("assistant", answer.content, tool_calls=answer.tool_calls))
        first = sum(map(len, asked))
        asked.append([Call(c.tool_id, c.arguments) for c in answer.tool_calls])
        for number, call in enumerate(answer.tool_calls, first):
            result = results[number] if number < len(results) else f"r{number}"
            behind.append(ChatMessage("tool", result, call.tool_call_id))
    raise AssertionError("the script does not end")


async def scripted(text: str, **parts: Any) -> ModelAnswer:
    return await ask("scripted", request("builtin/scripted", text, **parts))


async def test_calls_on_consecutive_lines_are_asked_for_together() -> None:
    text = 'a\ncalculate 1+1\ncall tool.echo {"x": [1]}\nb\ncall tool.time\nc'
    asked, answer = await converse(text, ["2", "echoed", "noon"])
    assert asked == [
        [Call("tool.calculate", {"expression": "1+1"}), Call("tool.echo", {"x": [1]})],
        [Call("tool.time", {})],
    ]
    assert answer.content == "a\n2\nechoed\nb\nnoon\nc"


async def test_call_ids_are_the_same_for_the_same_request_and_differ_within_it() -> None:
    text = "call tool.a\ncall tool.b"
    first, second = await scripted(text), await scripted(text)
    assert first == second
    assert len({call.tool_call_id for call in first.tool_calls}) == 2
    other = await scripted(text, request_id="req_other")
    assert not {c.tool_call_id for c in other.tool_calls} & {
        c.tool_call_id for c in first.tool_calls
    }


async def test_pauses_and_failures_above_answered_calls_are_not_repeated() -> None:
    text = "sleep 5000\nfail timeout\ncall tool.a\nend"
    behind = [ChatMessage("assistant", ""), ChatMessage("tool", "done", "tcall_1")]
    answer = await scripted(text, behind=behind, timeout_ms=1000)
    assert answer.content == "done\nend"


@pytest.mark.parametrize(
    ("line", "kind", "code"),
    [
        ("fail rate_limited", RateLimitedError, "rate_limited"),
        ("fail invalid_request", InvalidRequestError, "invalid_request"),
        ("fail no_such_code", ModelFailedError, "model_failed"),
    ],
)
async def test_a_fail_line_fails_with_its_code(
    line: str, kind: type[AgentOSError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        await scripted(f"hello\n{line}")
    assert caught.value.code == code
    if kind is ModelFailedError:
        assert caught.value.details == {"code": "no_such_code", "stage": "answer"}


@pytest.mark.parametrize(
    "line",
    [
        "call tool.echo {broken",
        "call tool.echo [1]",
        "call Tool.Echo {}",
        "call tool.>  {}",
        "call",
        "calculate",
        "sleep -5",
        "sleep soon",
        "sleep ٣",
        "sleep 1e99",
        "sleep nan",
        "fail",
        "fail two words",
        "  indented text  ",
        "",
    ],
)
async def test_a_line_that_is_no_command_is_echoed_as_it_stands(line: str) -> None:
    assert (await scripted(line)).content == line


@pytest.mark.parametrize("model", ["scripted", "sleep"])
async def test_a_sleep_over_the_time_limit_times_out_when_the_limit_is_reached(
    model: str,
) -> None:
    began = time.monotonic()
    with pytest.raises(TimedOutError):
        await ask(model, request(model, "sleep 999999999999999", timeout_ms=30))
    assert 0.03 <= time.monotonic() - began < 5


@pytest.mark.parametrize("model", ["scripted", "sleep"])
async def test_a_sleep_lasts_as_long_as_it_says_and_stops_when_cancelled(model: str) -> None:
    began = time.monotonic()
    answer = await ask(model, request(model, "a\nsleep 20\nb"))
    assert time.monotonic() - began >= 0.02
    assert answer.content == "a\nb"
    task = asyncio.create_task(ask(model, request(model, "sleep 9000")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 1)


async def test_sleep_alone_says_how_long_it_slept() -> None:
    answer = await ask("sleep", request("builtin/sleep", "sleep 1"))
    assert answer.content == "slept 1 ms"


async def test_what_stands_above_a_pause_is_streamed_before_it() -> None:
    seen: list[str] = []
    asked = request("builtin/scripted", "one two\nsleep 9000")
    task = asyncio.create_task(ask("scripted", asked, seen.append))
    await asyncio.sleep(0)
    assert "".join(seen) == "one two"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_usage_counts_a_token_per_four_characters_rounded_up() -> None:
    answer = await ask("echo", request("builtin/echo", "12345"))
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 2)  # 8 + 5, 5
    assert answer.usage.total_tokens == 6
    assert (answer.backend, answer.model, answer.cost_usd) == ("builtin", "echo", 0.0)


@pytest.mark.parametrize("model", ["echo", "scripted", "sleep"])
async def test_the_output_limit_cuts_the_text(model: str) -> None:
    asked = request(f"builtin/{model}", "abc\ndefgh", max_output_tokens=2)
    seen: list[str] = []
    answer = await ask(model, asked, seen.append)
    assert answer.content == "".join(seen) == "abc\ndefg"
    assert answer.usage.output_tokens == 2
    assert answer.finish_reason == "length"


async def test_an_unknown_builtin_names_the_known_ones() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await ask("gpt", request("builtin/gpt", "x"))
    assert caught.value.details["known"] == ["echo", "scripted", "sleep"]


async def test_a_long_answer_comes_in_few_pieces() -> None:
    seen: list[str] = []
    text = "ab " * 50_000
    await ask("echo", request("builtin/echo", text), seen.append)
    assert "".join(seen) == text
    assert len(seen) <= 512


async def test_more_calls_than_fit_one_answer_are_all_asked_for_once() -> None:
    asked, answer = await converse("\n".join(["call tool.a"] * 300), [])
    assert [len(calls) for calls in asked] == [MAX_PARALLEL_CALLS, MAX_PARALLEL_CALLS, 44]
    assert answer.content.split("\n") == [f"r{n}" for n in range(300)]


LINES = st.sampled_from(
    ["hello", "", "sleep 0", "calculate 1+1", "call tool.a {}", "call tool.b {bad", "sleep x"]
) | st.text(max_size=20)


@settings(max_examples=150, deadline=None)
@given(st.lists(LINES, max_size=25), st.lists(st.text(max_size=5), max_size=10))
async def test_a_script_ends_and_asks_for_each_call_once_in_order(
    lines: list[str], results: list[str]
) -> None:
    text = "\n".join(line for line in lines if not line.startswith("fail"))
    script = parse_script(text)
    calls = [line for line in script if isinstance(line, Call)]
    asked, answer = await converse(text, results)
    assert [call for together in asked for call in together] == calls
    assert all(together for together in asked)
    if not calls and "sleep" not in text:
        assert answer.content == text


async def test_embeddings_are_unit_vectors_that_tell_texts_apart() -> None:
    texts = ["a red apple", "a red apple!", "quarterly tax report", "", "x " * 5_000]
    asked = EmbedRequest("req_1", "builtin/embed", texts)
    answer = await BuiltinBackend("b").embed(caller(), "embed", asked)
    vectors = [list(vector) for vector in answer.vectors]
    assert [len(vector) for vector in vectors] == [64] * 5
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-9 for vector in vectors)
    alike = [sum(a * b for a, b in zip(vectors[0], vectors[n], strict=True)) for n in (1, 2)]
    assert alike[0] > 0.7 > alike[1]
    assert answer.usage.input_tokens == -(-sum(map(len, texts)) // 4)
    again = await BuiltinBackend().embed(caller(), "embed", replace(asked, texts=texts[:1]))
    assert list(again.vectors[0]) == vectors[0]


async def test_each_builtin_model_does_one_thing() -> None:
    for model, size in (("echo", None), ("embed", 32)):
        asked = EmbedRequest("req_1", f"builtin/{model}", ["x"], dimensions=size)
        with pytest.raises(InvalidRequestError):
            await BuiltinBackend().embed(caller(), model, asked)
    with pytest.raises(InvalidRequestError):
        await ask("embed", request("builtin/embed", "x"))
