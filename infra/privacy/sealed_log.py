"""The log for those who read content: it seals what is appended and opens what is read.

Only a commit whose header names a key is ever looked into; all others pass as they are.
"""

import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, cast

from agentos.domain.errors import DependencyUnavailableError, InternalError, SubjectErasedError
from agentos.domain.log import Commit, Recorded, TailBatch
from agentos.domain.ports import EventLog
from agentos.domain.privacy.content import (
    SEALABLE,
    erase_line,
    open_line,
    open_view,
    seal_line,
    view_key,
)
from agentos.domain.subjects import StreamRef
from agentos.infra.privacy.cipher import KEY_BYTES, Cipher
from agentos.infra.privacy.keyring import NO_KEY, Keyring

KNOWN: Final = 100_000


class SealedLog:
    """`EventLog` and `Contents` over a log that holds sealed commits.

    Where a key is not on this node (it was not in the backup, its stream was lost) content is
    shown as it stands, sealed. Who `needs_keys` gets `DependencyUnavailableError` instead.
    """

    def __init__(self, log: EventLog, keys: Keyring, *, needs_keys: bool = False) -> None:
        self._log = log
        self._keys = keys
        self._needs_keys = needs_keys
        self._known: OrderedDict[StreamRef, str] = OrderedDict()

    @property
    def stored(self) -> EventLog:
        """The log as it stands, sealed."""
        return self._log

    # Writing

    async def append(self, commit: Commit, *, expected: int) -> int:
        """As `EventLog.append`. Content whose key is destroyed is written so that nobody reads it.

        A later commit of an aggregate that is known to be sealed is sealed, whoever forgot to
        say so. `DependencyUnavailableError` where the key is not on this node.
        """
        key_id = commit.sealed or self._known.get(commit.ref, "")
        if key_id:
            commit = await self._seal(replace(commit, sealed=key_id))
        return await self._log.append(commit, expected=expected)

    async def _seal(self, commit: Commit) -> Commit:
        self._know(commit.ref, commit.sealed)
        if SEALABLE.isdisjoint(commit.types):
            return commit
        try:
            cipher = await self._keys.cipher(commit.ref.tenant_id, commit.sealed)
        except SubjectErasedError:
            cipher = Cipher(secrets.token_bytes(KEY_BYTES))  # held by nobody, from here on
        if cipher is None:
            raise DependencyUnavailableError(NO_KEY, dependency="content_keys")
        lines = [seal_line(line, commit.sealed, cipher.seal) for line in commit.lines()]
        return replace(commit, body=b"\n".join(lines))

    def _know(self, ref: StreamRef, key_id: str) -> None:
        self._known[ref] = key_id
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)

    # Reading

    async def open(self, record: Recorded) -> Recorded:
        """As `Contents.open`."""
        if not record.sealed:
            return record
        self._know(record.ref, record.sealed)
        if not record.body or record.stored is not None:
            return record
        try:
            cipher = await self._keys.cipher(record.ref.tenant_id, record.sealed)
        except SubjectErasedError:
            body = b"\n".join(erase_line(line) for line in record.lines())
            return replace(record, body=body, stored=record.body, readable=False)
        if cipher is None:
            if self._needs_keys:
                raise DependencyUnavailableError(NO_KEY, dependency="content_keys")
            return replace(record, stored=record.body, readable=False)
        try:
            body = b"\n".join(open_line(line, cipher.open) for line in record.lines())
        except ValueError as exc:
            raise InternalError(
                f"message {record.position} of the log does not open: {exc}"
            ) from exc
        return replace(record, body=body, stored=record.body)

    async def open_view(self, tenant_id: str, view: Mapping[str, Any]) -> Mapping[str, Any]:
        """As `Contents.open_view`."""
        key_id = view_key(view)
        if not key_id:
            return view
        try:
            cipher = await self._keys.cipher(tenant_id, key_id)
        except SubjectErasedError:
            return open_view(view, None)
        return view if cipher is None else open_view(view, cipher.open)

    # Last commits are looked at for their headers and their place: they are not opened, and a
    # key that is away holds up nobody who only asks where something stands.

    async def last(self, ref: StreamRef) -> Recorded | None:
        """As `EventLog.last`; content stays sealed."""
        return await self._log.last(ref)

    async def last_many(self, refs: Sequence[StreamRef]) -> dict[StreamRef, Recorded]:
        """As `EventLog.last_many`; content stays sealed."""
        return await self._log.last_many(refs)

    async def last_of_kind(self, kind: str, tenant_id: str | None = None) -> list[Recorded]:
        """As `EventLog.last_of_kind`; content stays sealed."""
        return await self._log.last_of_kind(kind, tenant_id)

    async def read(self, ref: StreamRef, *, after: int = 0) -> list[Recorded]:
        """As `EventLog.read`."""
        return await self._opened(await self._log.read(ref, after=after))

    async def tail(
        self,
        *,
        after: int,
        kinds: Sequence[str] = (),
        tenant_id: str | None = None,
        headers_only: bool = False,
    ) -> AsyncIterator[TailBatch]:
        """As `EventLog.tail`."""
        batches = self._log.tail(
            after=after, kinds=kinds, tenant_id=tenant_id, headers_only=headers_only
        )
        async with aclosing(cast("Any", batches)) as opened:
            async for batch in opened:
                yield TailBatch(await self._opened(batch.records), batch.caught_up)

    async def _opened(self, records: Sequence[Recorded]) -> list[Recorded]:
        if not any(record.sealed for record in records):
            return list(records)
        return [await self.open(record) for record in records]

    async def purge(self, ref: StreamRef, *, through: int) -> None:
        """As `EventLog.purge`."""
        await self._log.purge(ref, through=through)

    async def head(self) -> int:
        """As `EventLog.head`."""
        return await self._log.head()

    async def start(self) -> int:
        """As `EventLog.start`."""
        return await self._log.start()
