"""A backend of a vendor, and the fake server that it speaks to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agentos.domain.ports import ModelBackend
from agentos.infra.models.build import make_backend
from tests.infra.models.fake_server import ModelServer, Reply, Vendor, model_server


@asynccontextmanager
async def served(
    vendor: Vendor, *replies: Reply, **timeouts: int
) -> AsyncIterator[tuple[ModelServer, ModelBackend]]:
    """Run both."""
    async with model_server(*replies, root=vendor.root) as server:
        backend = make_backend(vendor.entry(server, **timeouts), vendor.key)
        try:
            yield server, backend
        finally:
            await backend.aclose()
