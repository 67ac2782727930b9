"""Which stack a client's certificate names."""

from typing import Final

from starlette.types import Scope

from agentos.domain.ids import is_named_id
from agentos.gateways.http.connection import connection_of

URI: Final = "urn:agentos:stack:"


def stack_ids_of(scope: Scope) -> frozenset[str]:
    """Return the stacks in the SAN of the verified certificate on the request's connection."""
    tls = connection_of(scope).transport.get_extra_info("ssl_object")
    shown = tls.getpeercert() if tls is not None else None
    names = (shown or {}).get("subjectAltName", ())
    texts = (str(value).removeprefix(URI) for kind, value in names if kind in ("DNS", "URI"))
    return frozenset(text for text in texts if is_named_id(text, "stk"))
