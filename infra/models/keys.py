"""The keys of backends: each in a file that the catalog names, never in the catalog."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from agentos.domain.models.catalog import BackendEntry
from agentos.infra.settings import Settings

KEY_DIR: Final = "model_keys"
OPENAI: Final = "openai"


def key_source(settings: Settings, entry: BackendEntry) -> str | None:
    """Return where a backend's key is, `file` or `settings`; `None` where it has none."""
    if entry.api_key_file is not None:
        return "file"
    is_own = entry.name == OPENAI and entry.base_url == settings.openai_base_url
    return "settings" if is_own and settings.openai_api_key else None


def key_of(settings: Settings, entry: BackendEntry) -> str | None:
    """Return the key for a backend: from its file, or for the settings' own server from there.

    Raises as `read_key`.
    """
    if entry.api_key_file is not None:
        return read_key(entry.api_key_file, settings.data_dir)
    return settings.openai_api_key if key_source(settings, entry) else None


def read_key(api_key_file: str, data_dir: Path) -> str:
    """Return the key in a file; a bare name is one of `model_keys` in the data directory.

    Raises `OSError`, and `ValueError` for a file that holds no key.
    """
    bare = "/" not in api_key_file
    path = data_dir / KEY_DIR / api_key_file if bare else Path(api_key_file).expanduser()
    try:
        key = path.read_text().strip()
    except UnicodeDecodeError:
        raise ValueError("holds no key") from None  # the error would have the bytes
    if not key or not key.isprintable() or " " in key:
        raise ValueError("holds no key")
    return key


def missing_keys(backends: Iterable[BackendEntry], data_dir: Path) -> list[str]:
    """Return what is wrong with the key files that are named, each with its place."""
    found = []
    for number, entry in enumerate(backends):
        if entry.api_key_file is None:
            continue
        try:
            read_key(entry.api_key_file, data_dir)
        except (OSError, ValueError) as exc:
            words = exc.strerror if isinstance(exc, OSError) else str(exc)
            found.append(f"backends[{number}].api_key_file: {entry.api_key_file}: {words}")
    return found
