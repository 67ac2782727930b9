"""The peers file: read once at the start, and refused with the line and the field."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from agentos.domain.federation.peer import PeerEntry, PeerInfo, PeersDocument
from agentos.infra.federation.json_lines import Path as FieldPath
from agentos.infra.federation.json_lines import lines_of, repeated_name

MAX_BYTES: Final = 4 * 1024 * 1024
TOP: Final = {"local", "peers"}
INFO: Final = set(PeerInfo.model_fields)
ENTRY: Final = set(PeerEntry.model_fields)


class PeersFileError(Exception):
    """The peers file cannot be used; the message says the file, the line, the field and why."""


def read_peers_file(path: Path, stack_id: str, override: str | None = None) -> PeersDocument:
    """Return what the file says; `PeersFileError` if it is off.

    `stack_id` is this node's own where the file names none, `override` goes before the file.

    A name that is nearly one that is known is refused: a limit with a typo would be none.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise PeersFileError(f"AGENTOS_PEERS_FILE: {path} cannot be read: {exc}") from exc
    if len(raw) > MAX_BYTES:
        raise PeersFileError(f"AGENTOS_PEERS_FILE: {path} is larger than {MAX_BYTES} bytes")
    return _parse(path, text, stack_id, override)


def _parse(path: Path, text: str, stack_id: str, override: str | None) -> PeersDocument:
    try:
        content = json.loads(text)
        twice = repeated_name(text)
    except (ValueError, RecursionError) as exc:
        line = getattr(exc, "lineno", 1)
        why = getattr(exc, "msg", "it is not JSON")
        raise PeersFileError(f"AGENTOS_PEERS_FILE: {path}:{line}: {why}") from exc
    if twice is not None:
        line = text.count("\n", 0, text.rindex(json.dumps(twice))) + 1
        raise PeersFileError(f"AGENTOS_PEERS_FILE: {path}:{line}: {twice} stands twice")
    lines = lines_of(text)

    def refused(field: FieldPath, why: str) -> PeersFileError:
        known = field
        while known and known not in lines:
            known = known[:-1]
        name = ".".join(map(str, field)) or "(top)"
        return PeersFileError(f"AGENTOS_PEERS_FILE: {path}:{lines.get(known, 1)}: {name}: {why}")

    for field, why in _typos(content):
        raise refused(field, why)
    try:
        document = PeersDocument.model_validate(content)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        raise refused(tuple(p for p in first["loc"] if p in _names(lines)), first["msg"]) from exc
    own = override or (document.local.stack_id if document.local else stack_id)
    for field, why in _contradictions(document, own):
        raise refused(field, why)
    return document


def _names(lines: dict[FieldPath, int]) -> set[str | int]:
    """Return all parts of paths, and the names that may be missing: pydantic adds others."""
    names: set[str | int] = {part for path in lines for part in path}
    return names | ENTRY | TOP | {"agent-orchestrator_base_url"}


def _typos(content: Any) -> Iterator[tuple[FieldPath, str]]:
    if not isinstance(content, dict):
        return
    places: list[tuple[FieldPath, Any, set[str]]] = [((), content, TOP)]
    places.append((("local",), content.get("local"), INFO))
    peers = content.get("peers")
    for at, peer in enumerate(peers if isinstance(peers, list) else []):
        places.append((("peers", at), peer, ENTRY))
    for path, value, known in places:
        for name in value if isinstance(value, dict) else ():
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            if name not in known and near:
                yield (*path, name), f"is not known; did you mean {near[0]}?"


def _contradictions(document: PeersDocument, stack_id: str) -> Iterator[tuple[FieldPath, str]]:
    seen: dict[str, int] = {}
    for at, peer in enumerate(document.peers):
        where: FieldPath = ("peers", at)
        if peer.stack_id == stack_id:
            yield (*where, "stack_id"), f"{stack_id} is this node itself"
        if peer.stack_id in seen:
            yield (*where, "stack_id"), f"{peer.stack_id} is peer {seen[peer.stack_id]} too"
        seen[peer.stack_id] = at
        if peer.tls not in (None, False) and not peer.has_tls:
            yield (*where, "tls"), "the peer's door is not https"
