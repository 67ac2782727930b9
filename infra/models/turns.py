"""A conversation as most vendors want it: system text apart, user and assistant in turns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from agentos.domain.errors import InvalidRequestError
from agentos.domain.ports import ChatMessage, ModelRequest


@dataclass(frozen=True, slots=True)
class Turn:
    """Messages of one side in a row; results of tools are the user's."""

    role: Literal["user", "assistant"]
    messages: list[ChatMessage] = field(default_factory=list)


def system_and_turns(messages: Sequence[ChatMessage]) -> tuple[str, list[Turn]]:
    """Return all system messages as one text, and the others in alternating turns.

    Empty messages are left out: the vendors refuse them.
    """
    system: list[str] = []
    turns: list[Turn] = []
    for message in messages:
        if message.role == "system":
            system.append(message.content)
        elif message.content or message.tool_calls or message.role == "tool":
            role: Literal["user", "assistant"]
            role = "assistant" if message.role == "assistant" else "user"
            if not turns or turns[-1].role != role:
                turns.append(Turn(role))
            turns[-1].messages.append(message)
    return "\n\n".join(system), turns


def wanted_schema(request: ModelRequest, *, knows_json_object: bool = False) -> object | None:
    """Return the JSON Schema that the answer has to fit, `{}` for any object, `None` for text.

    `InvalidRequestError` for a wish that the backend cannot fulfil.
    """
    wanted = request.response_format
    if wanted is None or wanted.get("type") == "text":
        return None
    if wanted.get("type") == "json_object" and knows_json_object:
        return {}
    schema = (wanted.get("json_schema") or {}).get("schema")
    if wanted.get("type") != "json_schema" or not isinstance(schema, dict):
        raise InvalidRequestError(
            "the backend has no such response_format", response_format=str(wanted.get("type"))[:100]
        )
    return schema
