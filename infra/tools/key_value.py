"""A tenant's own keys and values: `tool.kv.put` and `tool.kv.get`, and where they are kept."""

from typing import Annotated, Any, Final, Protocol

from pydantic import Field
from pydantic_core import PydanticSerializationError, from_json, to_json

from agentos.domain.auth import AuthContext
from agentos.domain.errors import InvalidRequestError, PayloadTooLargeError
from agentos.domain.ids import FREE_ID_PATTERN
from agentos.domain.ports import ToolCall
from agentos.infra.tools.tool import Arguments, Tool, make_tool

MAX_VALUE_BYTES: Final = 64 * 1024

Key = Annotated[str, Field(pattern=FREE_ID_PATTERN, description="1 to 256 printable characters.")]


class KeyValue(Protocol):
    """A durable map per tenant. The last write wins; a repeated write has no second effect."""

    async def put(self, tenant_id: str, key: str, value: bytes, idempotency_key: str) -> None:
        """Keep `value`, unless a put with this idempotency key was done to this key before.

        At least the newest 256 puts of a key are remembered. Raises
        `DependencyUnavailableError` when it is not known whether the value is kept: put again.
        """
        ...

    async def get(self, tenant_id: str, key: str) -> bytes | None:
        """Return the value that the last finished put kept, `None` if there is none."""
        ...


class MemoryKeyValue:
    """The map in memory, gone with the process: for tests and trials."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], bytes] = {}
        self._done: set[tuple[str, str, str]] = set()

    async def put(self, tenant_id: str, key: str, value: bytes, idempotency_key: str) -> None:
        """Keep `value`, unless this put was done before."""
        if (tenant_id, key, idempotency_key) not in self._done:
            self._done.add((tenant_id, key, idempotency_key))
            self._values[tenant_id, key] = value

    async def get(self, tenant_id: str, key: str) -> bytes | None:
        """Return the value kept last."""
        return self._values.get((tenant_id, key))


class PutArguments(Arguments):
    """A key and its new value."""

    key: Key
    value: Any = Field(description="Any JSON of up to 64 KiB.")


class GetArguments(Arguments):
    """A key."""

    key: Key


def kv_put_tool(kv: KeyValue) -> Tool[PutArguments]:
    """Return `tool.kv.put`: its output is `{key, bytes}`."""

    async def put(auth: AuthContext, call: ToolCall, arguments: PutArguments) -> Any:
        try:
            value = to_json(arguments.value)
        except PydanticSerializationError as exc:
            raise InvalidRequestError("the value is no JSON") from exc
        if len(value) > MAX_VALUE_BYTES:
            raise PayloadTooLargeError("the value is over 64 KiB", limit=MAX_VALUE_BYTES)
        await kv.put(auth.tenant_id, arguments.key, value, call.idempotency_key)
        return {"key": arguments.key, "bytes": len(value)}

    return make_tool("tool.kv.put", "Keeps a value under a key.", PutArguments, put)


def kv_get_tool(kv: KeyValue) -> Tool[GetArguments]:
    """Return `tool.kv.get`: its output is `{key, found, value}`; `value` is null if not found."""

    async def get(auth: AuthContext, call: ToolCall, arguments: GetArguments) -> Any:
        value = await kv.get(auth.tenant_id, arguments.key)
        found = value is not None
        return {
            "key": arguments.key,
            "found": found,
            "value": from_json(value) if value is not None else None,
        }

    return make_tool("tool.kv.get", "Reads the value under a key.", GetArguments, get)
