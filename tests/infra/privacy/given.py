"""A log that seals, on memory: its clock stands until a test moves it."""

from dataclasses import dataclass, field

from agentos.domain.privacy.subject import key_id_of, subject_id_of
from agentos.infra.memory.key_store import MemoryKeyStore
from agentos.infra.memory.log import MemoryLog
from agentos.infra.privacy.cipher import Cipher
from agentos.infra.privacy.keyring import Keyring
from agentos.infra.privacy.sealed_log import SealedLog

SUB = subject_id_of("tnt_a", "usr_ida")
KEY = key_id_of(SUB, 1)
WRAPPING = Cipher(b"the node's own key")


@dataclass
class Process:
    """One process' keyring and log on a store that others share."""

    store: MemoryKeyStore = field(default_factory=MemoryKeyStore)
    raw: MemoryLog = field(default_factory=MemoryLog)
    now: float = 0.0
    needs_keys: bool = False

    def __post_init__(self) -> None:
        self.keys = Keyring(self.store, WRAPPING, fresh_s=0.01, now=lambda: self.now)
        self.log = SealedLog(self.raw, self.keys, needs_keys=self.needs_keys)
