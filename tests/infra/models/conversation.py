"""One call with everything in it that a vendor's format has a place for."""

from agentos.domain.ports import ChatMessage, ModelRequest, RequestedToolCall, ToolOffer

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "where"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = ToolOffer("get_weather", "get_weather", "tells the weather", SCHEMA)
CLOCK = ToolOffer("tool.clock.now", "tool.clock.now", "", {"type": "object", "properties": {}})
MESSAGES = (
    ChatMessage("system", "be brief"),
    ChatMessage("system", "speak English"),
    ChatMessage("user", "how is it in Rome and Oslo?"),
    ChatMessage(
        "assistant",
        "I look.",
        tool_calls=(
            RequestedToolCall("tcall_1", "get_weather", "get_weather", {"city": "Rome"}),
            RequestedToolCall("tcall_2", "get_weather", "get_weather", {"city": "Oslo"}),
        ),
    ),
    ChatMessage("tool", '{"sky": "blue"}', "tcall_1"),
    ChatMessage("tool", "no such city", "tcall_2"),
    ChatMessage("assistant", "Rome is fine."),
    ChatMessage("user", "and the time?"),
    ChatMessage("user", "in UTC"),
)


def everything(tool_choice: str | None = "auto", **more: object) -> ModelRequest:
    """Return the call."""
    return ModelRequest(
        "req_1",
        "there/m",
        MESSAGES,
        tools=(WEATHER, CLOCK),
        max_output_tokens=200,
        tool_choice=tool_choice,
        temperature=0.5,
        top_p=0.9,
        stop=("END", "STOP"),
        seed=7,
        **more,  # type: ignore[arg-type]  # fields of the request
    )
