"""Every text of a call has a place, and what is put there comes back whole."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.policy.names import is_fixed
from agentos.domain.ports import (
    ChatMessage,
    EmbedRequest,
    ModelRequest,
    RequestedToolCall,
    ToolOffer,
)
from agentos.gateways.model_policy.content import (
    call_fields,
    chat_fields,
    embed_fields,
    rewritten_calls,
    rewritten_chat,
    rewritten_embed,
    tool_output_fields,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
calls = st.builds(
    RequestedToolCall,
    tool_call_id=st.text(min_size=1, max_size=5),
    tool_id=st.just("tool.echo"),
    name=st.just("tool.echo"),
    arguments=st.dictionaries(st.text(max_size=3), values, max_size=3),
)
messages = st.builds(
    ChatMessage,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.text(max_size=10),
    tool_calls=st.lists(calls, max_size=2).map(tuple),
    tool_call_id=st.none() | st.text(min_size=1, max_size=5),
    name=st.none() | st.text(max_size=5),
)
tools = st.builds(
    ToolOffer,
    tool_id=st.just("tool.echo"),
    name=st.just("echo"),
    description=st.text(max_size=5),
    input_schema=st.dictionaries(st.text(max_size=3), values, max_size=2),
)
requests = st.builds(
    ModelRequest,
    request_id=st.just("req_1"),
    model_ref=st.just("builtin/echo"),
    messages=st.lists(messages, max_size=4),
    tools=st.lists(tools, max_size=2),
    stop=st.lists(st.text(max_size=3), max_size=2).map(tuple),
    response_format=st.none() | st.dictionaries(st.text(max_size=3), values, max_size=2),
)


def same(field: str, text: str) -> str:
    return text


@given(requests)
def test_a_chat_that_is_not_changed_stays_the_same(request: ModelRequest) -> None:
    assert rewritten_chat(request, same) == request


@given(requests)
def test_every_text_is_rewritten_at_its_own_place(request: ModelRequest) -> None:
    seen: list[tuple[str, str]] = []

    def note(field: str, text: str) -> str:
        seen.append((field, text))
        return f"<{text}>"

    changed = rewritten_chat(request, note)
    assert sorted(seen) == sorted(replaceable(request))
    assert len({field for field, _ in seen}) == len(seen)
    expected = {field: f"<{text}>" for field, text in seen if not is_id(field)}
    assert {f: t for f, t in replaceable(changed) if not is_id(f)} == expected


@given(requests)
def test_no_name_is_lost_and_none_is_replaced(request: ModelRequest) -> None:
    changed = rewritten_chat(request, lambda _, text: f"<{text}>")
    names = [field for field in chat_fields(request) if is_fixed(field[0])]
    assert names == [field for field in chat_fields(changed) if is_fixed(field[0])]
    written = "\n".join(text for _, text in names)
    for tool in request.tools:
        assert all(name in written for name in tool.input_schema)


@given(requests)
def test_an_id_that_is_replaced_is_still_the_same_in_call_and_result(request: ModelRequest) -> None:
    changed = rewritten_chat(request, lambda _, text: f"<{text}>")
    new = dict(zip(ids(request), ids(changed), strict=True))
    assert [new[i] for i in ids(request)] == ids(changed)
    assert len(set(new.values())) == len(new)
    assert not set(new) & set(new.values())


def ids(request: ModelRequest) -> list[str]:
    found = [m.tool_call_id for m in request.messages if m.tool_call_id]
    return found + [c.tool_call_id for m in request.messages for c in m.tool_calls]


def is_id(field: str) -> bool:
    return field.endswith(".tool_call_id") and ".arguments" not in field


def replaceable(request: ModelRequest) -> list[tuple[str, str]]:
    return [field for field in chat_fields(request) if not is_fixed(field[0])]


def test_the_places_are_named() -> None:
    odd = "+49 30 1234567"
    arguments: dict[str, Any] = {"to": ["a@b.example", {"x": "y"}], "n": 1, odd: "an odd name"}
    call = RequestedToolCall("tcall_1", "tool.mail", "tool.mail", arguments)
    request = ModelRequest(
        "req_1",
        "builtin/echo",
        [
            ChatMessage("user", "hi"),
            ChatMessage("assistant", "", tool_calls=(call,)),
            ChatMessage("tool", "sent", "tcall_1"),
        ],
        stop=("END",),
    )
    assert chat_fields(request) == [
        ("messages[0].content", "hi"),
        ("messages[1].tool_calls[0].tool_call_id", "tcall_1"),
        ("messages[1].tool_calls[0].arguments.to[0]", "a@b.example"),
        ("messages[1].tool_calls[0].arguments.to[1].x", "y"),
        ("messages[1].tool_calls[0].arguments.n", "1"),
        ("messages[1].tool_calls[0].arguments[2]", "an odd name"),
        ("messages[1].tool_calls[0].*", "tool.mail\nto\nx\nn\n+49 30 1234567"),
        ("messages[2].content", "sent"),
        ("messages[2].tool_call_id", "tcall_1"),
        ("stop[0]", "END"),
    ]
    assert tool_output_fields(request) == [("messages[2].content", "sent")]
    assert call_fields([call])[0] == ("tool_calls[0].arguments.to[0]", "a@b.example")
    (changed,) = rewritten_calls([call], lambda field, text: field)
    assert changed.arguments["to"][1] == {"x": "tool_calls[0].arguments.to[1].x"}
    assert changed.arguments["n"] == "tool_calls[0].arguments.n"
    (same_,) = rewritten_calls([call], same)
    assert same_.arguments["n"] == 1


def test_texts_to_embed_have_numbers() -> None:
    request = EmbedRequest("req_1", "builtin/embed", ["a", "b"])
    assert embed_fields(request) == [("texts[0]", "a"), ("texts[1]", "b")]
    assert rewritten_embed(request, lambda _, text: text * 2).texts == ["aa", "bb"]
