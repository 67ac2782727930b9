"""A disk that filled up while the node ran.

The broker keeps the first write error of a stream for good: it stores nothing more, even when
there is room again, until it is started anew. So the supervisor watches for it.
"""

import shutil
from pathlib import Path

_SIGNS = (b"no space left on device", b"disk quota exceeded")
_ENOUGH, _NOTHING = 32 * 2**20, 2**20


class DiskWatch:
    """Reads what the broker says, and tells when it has to be started again."""

    def __init__(self, log: Path, data: Path) -> None:
        self.full = False
        self._log, self._data = log, data
        self._seen = self._size()

    def must_restart(self) -> bool:
        """Return whether writes failed for want of room and there is room now; asked often."""
        free = shutil.disk_usage(self._data).free
        # With no room at all the broker cannot even log it.
        self.full = self._says_full() or self.full or free < _NOTHING
        return self.full and free >= _ENOUGH

    def restarted(self) -> None:
        """Take what the broker said so far as past."""
        self.full, self._seen = False, self._size()

    def _says_full(self) -> bool:
        size, seen = self._size(), self._seen
        if size == seen:
            return False
        with self._log.open("rb") as log:
            log.seek(seen if size > seen else 0)
            said = log.read(2**20)
            self._seen = log.tell()
        return any(sign in said for sign in _SIGNS)

    def _size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0
