"""The runtime's way to models: a client of `models:invoke`, as the principal of its run."""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import aiohttp
import jwt
import orjson

from agentos.domain.auth import AuthContext, PolicyContext, Principal
from agentos.domain.errors import (
    AgentOSError,
    DependencyUnavailableError,
    RateLimitedError,
    TimedOutError,
    error_from_wire,
)
from agentos.domain.ports import (
    ChatMessage,
    ModelAnswer,
    ModelRequest,
    OnDelta,
    RequestedToolCall,
    ToolOffer,
    Usage,
)

ISSUER: Final = "agentos-runtime"
AUDIENCE: Final = "agentos-runtime"
TOKEN_S: Final = 600
CACHED: Final = 10_000
WAIT_S: Final = (0.05, 0.1, 0.2, 0.5)
OURS: Final = frozenset({"nats", "postgres", "handlers", "gateway"})
MAX_LINE: Final = 2**23
Key = tuple[str, Principal, frozenset[str], PolicyContext]


class GatewayModels:
    """`ModelPort` over HTTP. What is the node's own trouble is waited out, the model's is not."""

    def __init__(self, base_url: str, secret: str) -> None:
        self._url = f"{base_url.rstrip('/')}/v1/models:invoke"
        self._tokens = RunTokens(secret)
        self._session: aiohttp.ClientSession | None = None

    async def invoke(
        self, auth: AuthContext, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Make one chat call within its time; as `ModelPort.invoke`.

        A gateway that restarts, NATS that is away, and a spent rate are waited for. A call
        that was sent before is sent again under the same id, so it is made once.
        """
        deadline = time.monotonic() + request.timeout_ms / 1000
        body = to_body(request)
        trace = request.origin.traceparent if request.origin else ""
        turn = 0
        while True:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + _left(deadline)):
                    return await self._invoke(auth, body, on_delta, trace)
            except TimeoutError as exc:
                raise TimedOutError("the model took too long") from exc
            except AgentOSError as error:
                wait = _wait_s(error, turn)
                if wait is None or wait >= _left(deadline):
                    raise
            await asyncio.sleep(wait)
            turn += 1
            if origin := body["request"].get("origin"):
                origin["is_first"] = False

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def _invoke(
        self,
        auth: AuthContext,
        body: dict[str, Any],
        on_delta: OnDelta | None,
        traceparent: str,
    ) -> ModelAnswer:
        body["stream"] = on_delta is not None
        headers = {
            "Authorization": f"Bearer {self._tokens.of(auth)}",
            "Content-Type": "application/json",
        }
        if traceparent:
            headers["traceparent"] = traceparent
        try:
            async with self._open().post(
                self._url, data=orjson.dumps(body), headers=headers
            ) as answer:
                if answer.status != 200:
                    raise _error_of(await answer.read(), answer.status)
                if on_delta is None:
                    return to_answer(orjson.loads(await answer.read())["response"])
                return await _read_stream(answer, on_delta)
        except (aiohttp.ClientError, orjson.JSONDecodeError, KeyError) as exc:
            raise DependencyUnavailableError(
                "the model gateway cannot be reached", dependency="gateway"
            ) from exc

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=2.0),
                read_bufsize=MAX_LINE,
            )
        return self._session


class RunTokens:
    """Tokens that stand for the context of a run, signed with the node's secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._made: OrderedDict[Key, tuple[float, str]] = OrderedDict()

    def of(self, auth: AuthContext) -> str:
        """Return a token that is good for some minutes more."""
        now = time.time()
        key = (auth.tenant_id, auth.principal, auth.scopes, auth.policy_context)
        until, token = self._made.get(key, (0.0, ""))
        if until < now:
            token = self._sign(auth, int(now))
            self._made[key] = (now + TOKEN_S / 2, token)
            if len(self._made) > CACHED:
                self._made.popitem(last=False)
        return token

    def _sign(self, auth: AuthContext, now: int) -> str:
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + TOKEN_S,
            "auth": auth.model_dump(mode="json"),
        }
        return jwt.encode(claims, self._secret, algorithm="HS256")


def to_body(request: ModelRequest) -> dict[str, Any]:
    """Return the canonical body of a call."""
    asked: dict[str, Any] = {
        "request_id": request.request_id,
        "operation": "chat",
        "model_ref": request.model_ref,
        "timeout_ms": request.timeout_ms,
        "input": {"messages": [_message(message) for message in request.messages]},
    }
    if request.tools:
        asked["input"]["tools"] = [_tool(tool) for tool in request.tools]
    if request.max_output_tokens is not None:
        asked["generation"] = {"max_output_tokens": request.max_output_tokens}
    if (origin := request.origin) is not None:
        asked["origin"] = {
            "agent_id": origin.agent_id,
            "run_id": origin.run_id,
            "labels": dict(origin.labels),
            "is_first": origin.is_first,
            "sealed": origin.sealed,
        }
    return {"request": asked}


def _message(message: ChatMessage) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        wire["tool_calls"] = [
            {
                "tool_call_id": call.tool_call_id,
                "tool_id": call.tool_id,
                "name": call.name,
                "arguments": dict(call.arguments),
            }
            for call in message.tool_calls
        ]
    return wire


def _tool(tool: ToolOffer) -> dict[str, Any]:
    return {
        "tool_id": tool.tool_id,
        "name": tool.name,
        "description": tool.description,
        "input_schema": dict(tool.input_schema),
    }


def to_answer(response: Mapping[str, Any]) -> ModelAnswer:
    """Return the answer in a canonical response; `KeyError` for what is none."""
    output, usage, route = response["output"], response["usage"], response["route"]
    return ModelAnswer(
        content=output["message"]["content"],
        tool_calls=tuple(
            RequestedToolCall(
                c["tool_call_id"], c["tool_id"], c["name"], c["arguments"], c.get("policy")
            )
            for c in output["tool_calls"]
        ),
        usage=Usage(usage["input_tokens"], usage["output_tokens"]),
        backend=route["backend"],
        model=route["model"],
        cost_usd=response["cost_usd"],
        fallback_used=route["fallback_used"],
        finish_reason=output["finish_reason"],
        gates=response["policy_outcome"],
        node=route["node"],
    )


async def _read_stream(answer: aiohttp.ClientResponse, on_delta: OnDelta) -> ModelAnswer:
    async for name, data in _events(answer.content):
        if name == b"agentos.delta":
            on_delta(data["text"])
        elif name == b"agentos.response":
            return to_answer(data["response"])
        elif name == b"agentos.error":
            raise _final(error_from_wire(data["error"]))
    raise DependencyUnavailableError("the model gateway broke off", dependency="gateway")


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[tuple[bytes, dict[str, Any]]]:
    name = b""
    async for line in content:
        if line.startswith(b"event: "):
            name = line[7:].strip()
        elif line.startswith(b"data: "):
            yield name, orjson.loads(line[6:])


def _final(error: AgentOSError) -> AgentOSError:
    """Mark an error behind the first text: whoever watches has seen half an answer.

    Not so when the gateway says that it stops, which is as if it had broken off.
    """
    if error.details.get("dependency") != "gateway":
        error.details.setdefault("stage", "stream")
    return error


def _error_of(raw: bytes, status: int) -> AgentOSError:
    try:
        return error_from_wire(orjson.loads(raw)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return DependencyUnavailableError(
            f"the model gateway answered {status}", dependency="gateway"
        )


def _wait_s(error: AgentOSError, turn: int) -> float | None:
    """Return how long to wait before the same call again, `None` when it would not help."""
    if isinstance(error, RateLimitedError):
        return float(error.details.get("retry_after_ms", 1000)) / 1000
    if (
        isinstance(error, DependencyUnavailableError)
        and error.details.get("dependency") in OURS
        and error.details.get("stage") != "stream"
    ):
        return WAIT_S[min(turn, len(WAIT_S) - 1)] * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
    return None


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
