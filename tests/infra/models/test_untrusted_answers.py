"""What a backend says of itself is believed only as far as it can be so."""

from typing import Any

import orjson
import pytest

from agentos.domain.errors import ProviderError
from agentos.domain.models.worst_case import BUILTIN, chat_texts, input_ceiling, parts_of
from agentos.domain.ports import ChatMessage, EmbedRequest, ModelRequest, RequestedToolCall
from agentos.gateways.model_policy.leases import MOST, Account
from agentos.infra.models.answer_parts import AnswerParts
from agentos.infra.models.bedrock_embeddings import embed
from agentos.infra.models.bodies import encode
from agentos.infra.models.google_wire import to_content
from agentos.infra.models.openai_wire import add_completion
from agentos.infra.models.tokens import counted
from agentos.infra.models.tool_names import ToolNames
from tests.infra.models.requests import request


def test_only_counts_that_can_be_are_counts() -> None:
    assert counted(0) == 0
    assert counted(10**9) == 10**9
    assert counted(1, 2) == 3
    for bad in (10**9 + 1, 2**64 - 1, -1, 1.5, "7", True, None):
        assert counted(bad) is None
    assert counted(10**9, 1) is None


@pytest.mark.parametrize("count", [2**64 - 1, -5])
def test_a_count_that_cannot_be_is_estimated(count: int) -> None:
    asked = request("there/m", "hi")
    parts = AnswerParts(asked, ToolNames(asked), None)
    choice = {"message": {"content": "12345678"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": count, "completion_tokens": count}
    add_completion({"choices": [choice], "usage": usage}, parts)
    used = parts.answer("there", "m").usage
    assert (used.input_tokens, used.output_tokens) == (3, 2)


async def test_a_texts_count_that_cannot_be_is_estimated() -> None:
    async def invoke(_: bytes) -> bytes:
        return b'{"embedding": [0.5], "inputTextTokenCount": 18446744073709551615}'

    asked = EmbedRequest("req_1", "there/e", ["12345678"])
    done = await embed(invoke, asked, "there", "amazon.titan-embed-text-v2:0")
    assert done.usage.input_tokens == 2


def test_what_a_lease_came_to_is_what_the_ledger_takes() -> None:
    account = Account("tnt_a", lambda _: None)
    granted = {"amounts": {"tokens": 10}, "block": True, "reserved_at": 0}
    lease = account.leased("hold_1", granted, 1000, 0.0)
    for _ in range(2):
        reservation = lease.take({"tokens": 0})
        assert reservation is not None
        reservation.settle({"tokens": MOST})
        lease.free["tokens"] = 10
    lease.close()
    assert account.done == {"hold_1": {"tokens": MOST}}


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_arguments_that_nobody_can_hand_on(number: int) -> None:
    asked = request("there/m", "hi")
    parts = AnswerParts(asked, ToolNames(asked), None)
    parts.add_arguments(parts.new_call("c", "f"), f'{{"n": {number}}}')
    parts.finish_reason = "tool_calls"
    with pytest.raises(ProviderError, match="broken arguments"):
        parts.answer("there", "m")


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": {"type": "json_schema", "x": "y" * 500_000}},
        {"messages": [ChatMessage("user", "hi", name="y" * 500_000)]},
        {"messages": [ChatMessage("tool", "hi", "y" * 500_000)]},
        {"stop": ("y" * 500_000,)},
        {
            "messages": [
                ChatMessage(
                    "assistant", "", tool_calls=(RequestedToolCall("y" * 500_000, "f", "f", {}),)
                )
            ]
        },
    ],
    ids=["format", "name", "result", "stop", "call"],
)
def test_all_that_a_model_reads_is_held(more: dict[str, Any]) -> None:
    fields = {"messages": [ChatMessage("user", "hi")], **more}
    asked = ModelRequest("req_1", "there/m", **fields)
    assert input_ceiling(chat_texts(asked), parts_of(asked), "there") >= 500_000
    assert input_ceiling(chat_texts(asked), parts_of(asked), BUILTIN) > 0


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ('{"to": "ann\\u0040example.com"}', {"result": '{"to": "ann\\u0040example.com"}'}),
        ('{"to": "ann"}', {"to": "ann"}),
        ("[1]", {"result": [1]}),
    ],
)
def test_no_escape_is_read_behind_policys_back(said: str, sent: Any) -> None:
    asked = request("there/m", "hi", behind=[ChatMessage("tool", said, "c")])
    body = orjson.loads(encode(to_content(asked, "m", ToolNames(asked))))
    part = body["contents"][-1]["parts"][-1]
    assert part["functionResponse"]["response"] == sent
