"""The node's own key, which data subjects' keys are wrapped with before they are stored."""

import os
import secrets
from pathlib import Path

from agentos.infra.privacy.cipher import Cipher


def wrapping_of(given: str, path: Path) -> Cipher:
    """Return the wrapping key: the given one, else the file's, which is made if it is missing.

    Several processes may ask at once: one makes it. Raises `OSError`.
    """
    return Cipher((given or _kept(path)).strip().encode())


def _kept(path: Path) -> str:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # fails where another process was first
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_text()
