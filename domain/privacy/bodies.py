"""What is kept of a direct model call for tenants that want it: its texts, as policy saw them."""

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict


class CallBody(BaseModel):
    """The texts of one call, by direction; `tools` are the calls that its answer asks for.

    What the model said is as it came, before the policy of its time.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    input: tuple[str, ...] = ()
    tool_output: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    tools: tuple[tuple[str, tuple[str, ...]], ...] = ()
    context: Mapping[str, Any] = {}


class BodyStore(Protocol):
    """Keeps sealed bodies for a while. Raises `DependencyUnavailableError`."""

    async def put(self, tenant_id: str, digest: str, body: bytes) -> None:
        """Keep a call's body; of two with one id the last."""
        ...

    async def read(self, tenant_id: str, digest: str) -> bytes | None:
        """Return a call's body, `None` where none is kept."""
        ...

    async def are_kept(self) -> bool:
        """Return whether there is anything to read at all."""
        ...


def body_digest(principal_id: str, request_id: str) -> str:
    """Return the place of a call's body in its tenant."""
    return hashlib.sha256(f"{principal_id}\0{request_id}".encode()).hexdigest()[:40]


def body_place(digest: str) -> str:
    """Return what a call's body is bound to under seal."""
    return f"call/{digest}"
