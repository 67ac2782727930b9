import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.errors import ProviderError
from agentos.infra.models.event_stream import Frame, FrameReader
from tests.infra.models.bedrock_server import frame

NAMES = st.text("abc:-", min_size=1, max_size=20)
FRAMES = st.lists(
    st.tuples(st.dictionaries(NAMES, st.text("xyz/", max_size=20), max_size=4), st.binary()),
    max_size=6,
)


@given(FRAMES, st.integers(1, 50))
def test_frames_are_read_however_the_bytes_come(
    made: list[tuple[dict[str, str], bytes]], size: int
) -> None:
    data = b"".join(frame(headers, payload) for headers, payload in made)
    reader = FrameReader()
    found: list[Frame] = []
    for start in range(0, len(data), size):
        found += reader.feed(data[start : start + size])
    assert found == [Frame(headers, payload) for headers, payload in made]
    assert reader.is_between


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place: int, change: int) -> None:
    data = bytearray(frame({":message-type": "event"}, b'{"a": 1}'))
    data[place % len(data)] ^= change
    with pytest.raises(ProviderError):
        list(FrameReader().feed(bytes(data)))


@given(st.binary(min_size=16, max_size=200))
def test_noise_is_a_provider_error(data: bytes) -> None:
    with pytest.raises(ProviderError):
        list(FrameReader().feed(data))
