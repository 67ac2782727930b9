"""Requests and callers for the tests of models."""

from collections.abc import Sequence

from agentos.domain.auth import USER_SCOPES, AuthContext, Principal
from agentos.domain.ports import ChatMessage, ModelRequest, ToolOffer

REQUEST_ID = "req_01HZZZZZZZZZZZZZZZZZZZZZZZ"


def caller(tenant_id: str = "tnt_a", scopes: frozenset[str] = USER_SCOPES) -> AuthContext:
    """Return a user of a tenant."""
    return AuthContext(
        tenant_id=tenant_id, principal=Principal(principal_id="usr_1"), scopes=scopes
    )


def request(
    model_ref: str,
    text: str,
    *,
    behind: Sequence[ChatMessage] = (),
    tools: Sequence[ToolOffer] = (),
    timeout_ms: int = 10_000,
    max_output_tokens: int | None = None,
    request_id: str = REQUEST_ID,
) -> ModelRequest:
    """Return a request whose user says `text`, with the messages `behind` it."""
    return ModelRequest(
        request_id=request_id,
        model_ref=model_ref,
        messages=(
            ChatMessage("system", "be brief"),
            ChatMessage("user", text),
            *behind,
        ),
        tools=tools,
        timeout_ms=timeout_ms,
        max_output_tokens=max_output_tokens,
    )
