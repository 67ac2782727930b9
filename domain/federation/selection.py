"""Which node a run is to be forwarded to: pure, from what is known of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.envelope import is_none
from agentos.domain.errors import ConflictError, NotFoundError
from agentos.domain.federation.peer import Capabilities, PeerInfo, StackId, speaks_ours

Word = Annotated[str, Field(min_length=1, max_length=256)]
API_VERSION: Final = "v1"
FORWARD: Final = "runs_forward"


class Selector(BaseModel):
    """Where a run should go."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    stack_id: StackId | None = Field(default=None, exclude_if=is_none)
    region: Word | None = Field(default=None, exclude_if=is_none)
    required_capabilities: tuple[Word, ...] = Field(default=(), max_length=64)
    preferred_model_tier: Literal["fast", "balanced", "premium"] | None = Field(
        default=None, exclude_if=is_none
    )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that a run may go to. `load` counts its runs; `is_live` is when it was last asked."""

    info: PeerInfo
    capabilities: Capabilities
    load: int = 0
    is_live: bool = True
    serves: bool = True


def missing(selector: Selector, node: Candidate) -> list[str]:
    """Return what a node lacks of what a selector asks for, in the selector's spelling."""
    lacks = [name for name in selector.required_capabilities if not node.capabilities.has(name)]
    if not node.capabilities.has(FORWARD) and "runs.forward" not in lacks:
        lacks.append("runs.forward")
    if not speaks_ours(node.capabilities.protocol):
        lacks.append(f"protocol {node.capabilities.protocol}")
    if API_VERSION not in node.info.api_versions:
        lacks.append(f"api version {API_VERSION}")
    if selector.region is not None and selector.region != node.info.region:
        lacks.append(f"region {selector.region}")
    tier, tiers = selector.preferred_model_tier, node.capabilities.tiers
    if tier is not None and tiers is not None and tier not in tiers:
        lacks.append(f"model tier {tier}")
    return lacks


def choose(selector: Selector, local: Candidate, peers: Sequence[Candidate]) -> Candidate:
    """Return the node that fits: this one if it does, else the least loaded live peer.

    A named node is taken whether or not it was heard of late. Raises `NotFoundError` when
    there is no such peer, `ConflictError` with `details.missing` when one is named, or there
    are some, and they lack what is asked for.
    """
    if selector.stack_id is not None:
        return _named(selector, selector.stack_id, (local, *peers))
    if not missing(selector, local):
        return local
    live = [peer for peer in peers if peer.is_live and peer.serves]
    fitting = [peer for peer in live if not missing(selector, peer)]
    if fitting:
        return min(fitting, key=lambda peer: (peer.load, peer.info.stack_id))
    if not live:
        raise NotFoundError("no live peer", stack_id=None)
    lacks = {peer.info.stack_id: missing(selector, peer) for peer in live}
    nearest = min(lacks.values(), key=len)
    raise ConflictError("no live peer has what is asked for", missing=nearest, peers=lacks)


def _named(selector: Selector, stack_id: str, nodes: Sequence[Candidate]) -> Candidate:
    found = next((node for node in nodes if node.info.stack_id == stack_id), None)
    if found is None or not found.serves:
        raise NotFoundError("no such peer", stack_id=stack_id)
    if lacks := missing(selector, found):
        raise ConflictError(f"the peer lacks {', '.join(lacks)}", stack_id=stack_id, missing=lacks)
    return found
