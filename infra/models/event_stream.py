"""The binary framing of AWS event streams (`application/vnd.amazon.eventstream`).

A frame is its length and its headers' length (four bytes each, big-endian), a checksum of
these eight bytes, headers, payload, and a checksum of all before it.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from agentos.domain.errors import ProviderError

MEDIA_TYPE: Final = "application/vnd.amazon.eventstream"
PRELUDE_BYTES: Final = 12
SMALLEST_FRAME: Final = 16
MAX_FRAME_BYTES: Final = 2 * 1024 * 1024
TEXT: Final = 7
# How many bytes the value of each other type of header has; 6 and 7 name their length.
_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: its headers of text, and its payload."""

    headers: Mapping[str, str]
    payload: bytes


class FrameReader:
    """Cuts a stream of bytes into frames; `ProviderError` for what is none."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def is_between(self) -> bool:
        """Whether all that came was whole frames."""
        return not self._rest

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete with `chunk`."""
        data = self._rest + chunk
        while len(data) >= PRELUDE_BYTES:
            size, headers_size, checksum = struct.unpack_from(">III", data)
            if crc32(data[:8]) != checksum:
                raise _damaged("the checksum of a frame's length is wrong")
            if not SMALLEST_FRAME + headers_size <= size <= MAX_FRAME_BYTES:
                raise _damaged("a frame has an impossible length")
            if len(data) < size:
                break
            frame, data = data[:size], data[size:]
            yield _read_frame(frame, headers_size)
        self._rest = data


def _read_frame(frame: bytes, headers_size: int) -> Frame:
    if crc32(frame[:-4]) != int.from_bytes(frame[-4:], "big"):
        raise _damaged("the checksum of a frame is wrong")
    end = PRELUDE_BYTES + headers_size
    try:
        headers = dict(_read_headers(frame[PRELUDE_BYTES:end]))
    except (IndexError, KeyError, UnicodeDecodeError):
        raise _damaged("a frame's headers are not in the format") from None
    return Frame(headers, frame[end:-4])


def _read_headers(data: bytes) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(data):
        name_end = at + 1 + data[at]
        name, kind = data[at + 1 : name_end].decode(), data[name_end]
        at = name_end + 1
        if kind in _SIZES:
            at += _SIZES[kind]
        elif kind in (6, TEXT):
            size = (data[at] << 8) | data[at + 1]
            value = data[at + 2 : at + 2 + size]
            at += 2 + size
            if kind == TEXT:
                yield name, value.decode()
        else:
            raise KeyError(kind)
        if at > len(data):
            raise IndexError(name)


def _damaged(message: str) -> ProviderError:
    return ProviderError(f"the backend's stream is damaged: {message}")
