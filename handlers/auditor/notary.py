"""Signs what the chains have come to: every 1,000 records, or 60 seconds after the first of them.

It reads the chains back from the log, so what others append is signed too. A chain that does not
hold is signed no more: an alarm, in the log and as a metric, for a person to look at.
"""

import asyncio
from copy import copy
from typing import Any, Final, NamedTuple

import structlog
from pydantic_core import from_json

from agentos.domain.aggregate import FoldError
from agentos.domain.audit.chain import NO_HASH, AuditRecorded, chain_hash, chain_ref
from agentos.domain.audit.checkpoint import (
    LONGEST,
    AuditCheckpoints,
    AuditKeys,
    checkpoints_ref,
    keys_ref,
)
from agentos.domain.errors import AgentOSError, AppendConflictError
from agentos.domain.log import Recorded, make_commit
from agentos.domain.subjects import StreamRef
from agentos.handlers.auditor.parts import AuditorParts

EVERY_S: Final = 60.0
TICK_S: Final = 1.0
log = structlog.get_logger()


class Unsigned(NamedTuple):
    """A record that no checkpoint covers yet."""

    sequence: int
    position: int
    hash: str


class _Chain:
    """What is known of one chain: its end, and its records since the last checkpoint."""

    def __init__(self, checkpoints: AuditCheckpoints, end: tuple[int, str]) -> None:
        self.checkpoints = checkpoints
        self.sequence, self.hash = end
        self.signed_at = 0
        """The position of the commit that the last record under a checkpoint is in."""
        self.unsigned: list[Unsigned] = []
        self.since = 0.0
        self.is_broken = False


class Notary:
    """Keeps the checkpoints of all chains; `base` says up to where all causes are recorded."""

    def __init__(self, parts: AuditorParts, every_s: float = EVERY_S) -> None:
        self._parts = parts
        self._every_s = every_s
        self._chains: dict[str, _Chain] = {}
        self._wake = asyncio.Event()
        self.base = 0

    async def publish_key(self) -> None:
        """Make the signer's public key known, once."""
        parts, ref = self._parts, keys_ref()
        while True:
            keys = AuditKeys(ref).fold(await parts.log.read(ref))
            expected = keys.position
            events = keys.publish(parts.signer, parts.moment())
            if not events:
                return
            try:
                await parts.log.append(make_commit(ref, events, parts.new_id), expected=expected)
            except AppendConflictError:
                continue
            return

    async def resume(self, checkpoints: Recorded | None, tenant_id: str, up_to: int) -> None:
        """Take up a chain behind its last checkpoint; the tail brings what is behind `up_to`."""
        known = AuditCheckpoints(_ref(tenant_id))
        signed_at = 0
        if checkpoints is not None:
            known = _last(known, checkpoints)
            signed_at = _signed_at(checkpoints)
            self.base = max(self.base, checkpoints.base)
        chain = self._chains[tenant_id] = _Chain(known, (0, NO_HASH))
        chain.signed_at = signed_at
        for record in await self._parts.log.read(chain_ref(tenant_id), after=max(0, signed_at - 1)):
            if record.position <= up_to:
                self._take(chain, record)

    def saw(self, record: Recorded) -> None:
        """Take in a commit of the kind `audit` from the tail of the log."""
        if record.ref.aggregate_id != "chain":
            return
        chain = self._chains.get(record.ref.tenant_id)
        if chain is None:
            known = AuditCheckpoints(_ref(record.ref.tenant_id))
            chain = self._chains[record.ref.tenant_id] = _Chain(known, (0, NO_HASH))
        self._take(chain, record)

    def _take(self, chain: _Chain, record: Recorded) -> None:
        if chain.is_broken:
            return
        try:
            for line in record.lines():
                self._add(chain, record.position, from_json(line)["event"])
        except (FoldError, ValueError, KeyError, TypeError) as error:
            chain.is_broken = True
            self._parts.metrics.broken.inc()
            log.error(
                "the audit chain does not hold and is signed no more: agentos audit verify",
                tenant_id=record.ref.tenant_id,
                position=record.position,
                error=str(error),
            )

    def _add(self, chain: _Chain, position: int, event: dict[str, Any]) -> None:
        said = event["payload"]
        sequence: int = said["sequence"]
        if event["type"] != AuditRecorded.TYPE or chain_hash(said) != said["hash"]:
            raise FoldError(f"record {sequence} is not what its hash covers")
        if position < chain.signed_at:
            return
        begun = chain.sequence > 0
        if begun and (sequence != chain.sequence + 1 or said["prev_hash"] != chain.hash):
            raise FoldError(f"record {sequence} does not follow record {chain.sequence}")
        if not begun and sequence > chain.checkpoints.covered + 1:
            raise FoldError(f"record {sequence} is the first behind the last checkpoint")
        chain.sequence, chain.hash = sequence, said["hash"]
        if sequence <= chain.checkpoints.covered:
            if position > chain.signed_at:
                raise FoldError(f"record {sequence} stands behind its checkpoint")
            return
        if not chain.unsigned:
            chain.since = asyncio.get_running_loop().time()
        chain.unsigned.append(Unsigned(sequence, position, said["hash"]))
        if len(chain.unsigned) >= LONGEST:
            self._wake.set()

    async def run(self) -> None:
        """Sign what is due until cancelled."""
        while True:
            try:
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self.sign_due(asyncio.get_running_loop().time() - self._every_s)

    async def sign_due(self, before: float) -> None:
        """Sign the chains that have enough, or whose oldest unsigned record came by `before`."""
        for tenant_id, chain in list(self._chains.items()):
            while chain.unsigned and (len(chain.unsigned) >= LONGEST or chain.since <= before):
                if not await self._sign(tenant_id, chain):
                    break

    async def _sign(self, tenant_id: str, chain: _Chain) -> bool:
        """Append one checkpoint; `False` when it has to wait."""
        parts = self._parts
        due = chain.unsigned[:LONGEST]
        signed, base = copy(chain.checkpoints), self.base  # nothing is signed until it is written
        try:
            events = signed.sign([u.hash for u in due], parts.signer, parts.moment())
            end = str(due[-1].position)
            commit = make_commit(signed.ref, events, parts.new_id, base=base, causation_id=end)
            parts.crash_point("auditor.before_checkpoint")
            signed.position = await parts.log.append(commit, expected=signed.position)
            parts.crash_point("auditor.after_checkpoint")
        except (AppendConflictError, AgentOSError) as error:
            log.info("a checkpoint is decided again", tenant_id=tenant_id, error=str(error))
            return await self._reread(tenant_id, chain)
        parts.metrics.checkpoints.inc()
        chain.checkpoints = signed
        self._signed(chain, due[-1].position)
        return True

    def _signed(self, chain: _Chain, at: int) -> None:
        chain.signed_at = at
        chain.unsigned = [u for u in chain.unsigned if u.sequence > chain.checkpoints.covered]
        chain.since = asyncio.get_running_loop().time()

    async def _reread(self, tenant_id: str, chain: _Chain) -> bool:
        """Find out what the checkpoints came to: another was first, or it is not known."""
        while True:
            try:
                last = await self._parts.log.last(_ref(tenant_id))
            except AgentOSError:
                await asyncio.sleep(TICK_S)
                continue
            chain.checkpoints = AuditCheckpoints(_ref(tenant_id))
            if last is not None:
                chain.checkpoints = _last(chain.checkpoints, last)
            before = len(chain.unsigned)
            self._signed(chain, _signed_at(last))
            return len(chain.unsigned) < before


def _ref(tenant_id: str) -> StreamRef:
    return checkpoints_ref(tenant_id)


def _signed_at(last: Recorded | None) -> int:
    return 0 if last is None else int(last.causation_id or 0)


def _last(checkpoints: AuditCheckpoints, last: Recorded) -> AuditCheckpoints:
    """Return the checkpoints as their last commit leaves them: only the end counts."""
    checkpoints.sequence = last.first_sequence - 1
    return checkpoints.fold([last])
