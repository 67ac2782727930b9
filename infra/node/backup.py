"""A backup of a whole node: its log, its buckets, its secrets, and a list that proves them.

A directory: `backup.json` is written last, so that one without it was broken off. The read
models are not in it: the log makes them.
"""

import asyncio
import base64
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js.api import KeyValueConfig, StorageType

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.ports import EventLog
from agentos.domain.privacy.subject import DataSubject
from agentos.infra.archive import ArchiveReader, ArchiveWriter
from agentos.infra.jetstream.connection import Connection
from agentos.infra.jetstream.content_keys import JetStreamContentKeys
from agentos.infra.jetstream.key_usage import BUCKET as KEY_USAGE
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.signals import NatsSignals
from agentos.infra.log_transfer import Report, export_log, head_of, import_log
from agentos.infra.node.files import write_object, write_whole
from agentos.infra.retention import ArchiveDirectory
from agentos.infra.tools.jetstream_kv import BUCKET as TOOL_KV
from agentos.infra.whole_read import all_begun, whole_read

FORMAT: Final = "agentos-backup"
VERSION: Final = 1
LIST: Final = "backup.json"
LOG: Final = "log.gz"
ARCHIVES: Final = "archive"
CONTENT_KEYS: Final = "content_keys.ndjson"
SECRETS: Final = "secrets"
BUCKETS: Final = (TOOL_KV, KEY_USAGE)
# What the data directory holds besides servers' data, and what a node makes anew by itself.
NOT_KEPT: Final = frozenset(
    {"node.json", "node.lock", "state.json", "runtime.json", "postgres.json"}
)


class BackupError(Exception):
    """The backup is not whole, or is not to be had here; the message says what to do."""


async def make_backup(
    connection: Connection,
    data: Path,
    out: Path,
    *,
    with_secrets: bool,
    report: Report,
    archives: ArchiveDirectory | None = None,
) -> dict[str, Any]:
    """Write a backup of the running node into `out`, and return its list.

    Begun again in the same directory, the log goes on where it was broken off. What retention
    let go is in it as the archives have it; those that are elsewhere are named.
    """
    _begin(out)
    log = JetStreamLog(connection)
    async with whole_read(NatsSignals(connection)):
        writer = ArchiveWriter.open(out / LOG, await head_of(log, created_at=_now()))
        try:
            await export_log(log, writer, report)
        finally:
            writer.close()
        missing = await _keep_archives(log, archives, out / ARCHIVES)
    for bucket in BUCKETS:
        await _keep_bucket(connection, bucket, out / f"{bucket}.ndjson")
    await _keep_content_keys(connection, out / CONTENT_KEYS)
    if with_secrets:
        _keep_secrets(data, out / SECRETS)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "created_at": _now(),
        "records": writer.digest.records,
        "last_position": writer.last,
        "log_digest": writer.digest.value,
        "with_secrets": with_secrets,
        "archives_missing": missing,
        "files": {str(path.relative_to(out)): _sha256(path) for path in _files(out)},
    }
    write_object(out / LIST, content)
    return content


def _begin(out: Path) -> None:
    if (out / LIST).exists():
        raise BackupError(f"{out} holds a whole backup; name another directory")
    out.mkdir(parents=True, exist_ok=True, mode=0o700)


def verify_backup(out: Path) -> dict[str, Any]:
    """Return the list of a backup whose files are all there and undamaged."""
    try:
        content: dict[str, Any] = json.loads((out / LIST).read_text())
    except FileNotFoundError as exc:
        raise BackupError(f"{out} has no {LIST}: no backup, or one that was broken off") from exc
    except ValueError as exc:
        raise BackupError(f"{out / LIST} cannot be read: {exc}") from exc
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise BackupError(f"{out / LIST} is no list of a backup that this AgentOS reads")
    for name, digest in content["files"].items():
        path = out / name
        if not path.is_file():
            raise BackupError(f"{path} is missing")
        if _sha256(path) != digest:
            raise BackupError(f"{path} is damaged: its checksum does not fit")
    return content


async def fill_from(connection: Connection, out: Path, report: Report) -> None:
    """Write a verified backup's log, buckets and content keys into an empty broker.

    Backups of before content keys have none.
    """
    files = verify_backup(out)["files"]
    await import_log(JetStreamLog(connection), ArchiveReader(out / LOG), report)
    for bucket in BUCKETS:
        await _fill_bucket(connection, bucket, out / f"{bucket}.ndjson")
    entries = _entries(out / CONTENT_KEYS) if CONTENT_KEYS in files else []
    await _fill_content_keys(connection, entries)


async def _keep_archives(log: EventLog, archives: ArchiveDirectory | None, into: Path) -> list[str]:
    """Copy the archives of what went; returns those that are not in the directory."""
    named = [plan.archive for _, plan in await all_begun(log) if plan.archive is not None]
    if archives is None or not named:
        return [archive.name for archive in named]
    missing = archives.missing(named)
    names = [archive.name for archive in named if archive.name not in missing]
    await asyncio.to_thread(_copy_all, archives.directory, names, into)
    return missing


def _copy_all(directory: Path, names: Sequence[str], into: Path) -> None:
    into.mkdir(exist_ok=True, mode=0o700)
    for name in names:
        if not (into / name).exists():
            _copy(directory / name, into / name)


def bring_back_archives(out: Path, archives: ArchiveDirectory | None) -> int:
    """Put a backup's archives where a node looks for them; returns how many there are."""
    found = sorted((out / ARCHIVES).glob("*"))
    if archives is None:
        return 0
    for path in found:
        archives.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _copy(path, archives.directory / path.name)
    return len(found)


def _copy(path: Path, to: Path) -> None:
    """Copy a file, readable by its owner only; it is there whole, or not at all."""
    part = to.with_name(f".{to.name}.part")
    part.touch(mode=0o600)
    shutil.copyfile(path, part)
    part.replace(to)


def bring_back_secrets(out: Path, data: Path) -> list[str]:
    """Put the secrets of a backup into a data directory; returns their names."""
    names = []
    for path in sorted((out / SECRETS).glob("*")):
        write_whole(data / path.name, path.read_bytes())
        names.append(path.name)
    return names


def _keep_secrets(data: Path, into: Path) -> None:
    into.mkdir(exist_ok=True, mode=0o700)
    for path in sorted(data.iterdir()):
        if path.is_file() and path.name not in NOT_KEPT and not path.name.startswith("."):
            write_whole(into / path.name, path.read_bytes())


async def _keep_content_keys(connection: Connection, path: Path) -> None:
    """Keep data subjects' keys as they are stored: wrapped, or destroyed (empty)."""
    lines = [
        json.dumps({"key": subject, "value": base64.b64encode(body).decode()})
        for subject, body in await JetStreamContentKeys(connection).entries()
    ]
    write_whole(path, "".join(f"{line}\n" for line in lines))


async def _fill_content_keys(connection: Connection, entries: list[dict[str, str]]) -> None:
    """Bring the keys back, but none that the backup's own log says was destroyed."""
    log, keys = JetStreamLog(connection), JetStreamContentKeys(connection)
    for last in await log.last_of_kind(DataSubject.KIND):
        subject = DataSubject(last.ref).fold(await log.read(last.ref))
        for key_id in subject.erased_keys():
            await keys.destroy(last.ref.tenant_id, key_id)
    for entry in entries:
        await keys.fill(entry["key"], base64.b64decode(entry["value"]))


async def _keep_bucket(client: Client, name: str, path: Path) -> None:
    lines = []
    with _reached():
        try:
            bucket = await client.jetstream().key_value(name)
            for key in await bucket.keys():
                value = (await bucket.get(key)).value or b""
                lines.append(json.dumps({"key": key, "value": base64.b64encode(value).decode()}))
        except (nats.js.errors.BucketNotFoundError, nats.js.errors.NoKeysError):
            pass
    write_whole(path, "".join(f"{line}\n" for line in lines))


async def _fill_bucket(client: Client, name: str, path: Path) -> None:
    entries = _entries(path)
    if not entries:
        return
    with _reached():
        config = KeyValueConfig(bucket=name, history=1, storage=StorageType.FILE)
        bucket = await client.jetstream().create_key_value(config)
        for entry in entries:
            await bucket.put(entry["key"], base64.b64decode(entry["value"]))


def _entries(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except (nats.errors.Error, OSError, TimeoutError) as exc:
        raise DependencyUnavailableError("the broker is not reached", dependency="nats") from exc


def _files(out: Path) -> list[Path]:
    return sorted(path for path in out.rglob("*") if path.is_file() and path.name != LIST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
