"""What this node tells its peers of itself."""

from typing import Final

from agentos.domain.federation.peer import PROTOCOL, Capabilities
from agentos.federation.parts import LocalNode

FEATURES: Final = ("runs.forward", "events.ingest", "events.sse_proxy")
MAX_CONTEXT_TOKENS: Final = 128_000


def capabilities_of(local: LocalNode) -> Capabilities:
    """Return what this node can do, and its load at this moment."""
    return Capabilities(
        supports={
            "runs_forward": True,
            "events_stream": True,
            "tenant_isolation": True,
            "tool_hosting": False,
        },
        limits={
            "max_concurrent_runs": local.max_concurrent_runs,
            "max_event_streams": local.max_event_streams,
        },
        models={
            "tiers": list(local.tiers),
            "backends": list(local.backends),
            "max_context_tokens": MAX_CONTEXT_TOKENS,
        },
        features=FEATURES,
        protocol=PROTOCOL,
        load={"active_runs": local.active_runs()},
    )
