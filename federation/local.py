"""What this node tells its peers of itself."""

from typing import Final

from agentos.domain.federation.peer import PROTOCOL, Capabilities
from agentos.federation.parts import LocalNode

FEATURES: Final = ("runs.forward", "events.ingest", "events.sse_proxy")


async def capabilities_of(local: LocalNode) -> Capabilities:
    """Return what this node can do, and its load at this moment.

    A limit that is `None` is none that this node sets. Raises `DependencyUnavailableError` when
    the log cannot say which models there are.
    """
    models = await local.models()
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
            "tiers": list(models.tiers),
            "backends": list(models.backends),
            "max_context_tokens": models.max_context_tokens,
        },
        features=FEATURES,
        protocol=PROTOCOL,
        load={"active_runs": local.active_runs()},
    )
