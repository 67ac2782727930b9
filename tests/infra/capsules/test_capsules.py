"""A capsule is there whole and signed or not at all, and any change to it is found."""

import gzip
import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentos.domain.replay.capsule import CapsuleError, agent_line, run_lines
from agentos.infra.capsules import writer as writing
from agentos.infra.capsules.keys import fingerprint, holds, known_key, node_signer
from agentos.infra.capsules.reader import runs_of, verify
from agentos.infra.capsules.writer import CapsuleWriter
from tests.domain.replay.given import lines_of
from tests.domain.replay.recorder import DEFINITION, kinds_of_runs

ABOUT = {
    "capsule_id": "cap_1",
    "created_at": "2026-11-25T00:00:00.000Z",
    "node": "stk_a",
    "agentos_version": "0.1.0",
    "redacted_by": None,
}


def write(path: Path, key_dir: Path) -> Path:
    """Write a capsule with a run of every kind."""
    with CapsuleWriter(path, node_signer(key_dir), ABOUT) as writer:
        writer.add([agent_line("tnt_a", "agt_a", DEFINITION, str)])
        for made in kinds_of_runs().values():
            head, block = run_lines(made.records, "agt_a", None)
            writer.add([block], events=head.events)
    return path


@pytest.fixture(scope="module")
def capsule(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capsule that is only read."""
    folder = tmp_path_factory.mktemp("capsule")
    return write(folder / "a.capsule", folder)


def test_what_goes_in_comes_out(capsule: Path) -> None:
    kinds = list(kinds_of_runs().values())
    manifest = verify(capsule)
    assert (manifest.runs, manifest.capsule_id) == (len(kinds), "cap_1")
    found = list(runs_of(capsule))
    assert [lines_of(run.records) for run in found] == [lines_of(made.records) for made in kinds]
    assert manifest.events == sum(run.head.events for run in found)
    assert all(run.versions == {"1": DEFINITION} for run in found)
    assert capsule.stat().st_mode & 0o777 == 0o600


def test_many_parts_are_as_good_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PART_BYTES", 3000)
    path = write(tmp_path / "a.capsule", tmp_path)
    assert len(verify(path).parts) > 5
    assert len(list(runs_of(path))) == len(kinds_of_runs())


@given(st.integers(0, 10**9), st.integers(1, 255))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_is_found_or_changes_nothing(
    capsule: Path, tmp_path: Path, place: int, mask: int
) -> None:
    content = bytearray(capsule.read_bytes())
    content[place % len(content)] ^= mask
    changed = tmp_path / "changed.capsule"
    changed.write_bytes(content)
    try:
        assert verify(changed) == verify(capsule)
        assert list(runs_of(changed)) == list(runs_of(capsule))
    except CapsuleError:
        return


@given(st.integers(0, 10**9))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_capsule_that_was_cut_is_refused(capsule: Path, tmp_path: Path, length: int) -> None:
    content = capsule.read_bytes()
    short = tmp_path / "short.capsule"
    short.write_bytes(content[: length % (len(content) - 600)])
    with pytest.raises(CapsuleError):
        verify(short)


def members(path: Path) -> dict[str, bytes]:
    """Return what is in a capsule."""
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]  # files


def made_of(path: Path, parts: dict[str, bytes]) -> Path:
    """Write a capsule of these members."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(gzip.compress(raw.getvalue()))
    return path


def test_a_well_made_lie_is_refused(capsule: Path, tmp_path: Path) -> None:
    whole = members(capsule)
    name = "parts/000001.ndjson"
    lies = {
        "another text": whole | {name: whole[name].replace(b"hello", b"jello")},
        "one part more": {name: whole[name], "parts/000002.ndjson": b"x", **whole},
        "no part": {n: c for n, c in whole.items() if n != name},
        "no signature": {n: c for n, c in whole.items() if n != "manifest.sig"},
        "no manifest": {n: c for n, c in whole.items() if n != "manifest.json"},
        "another signature": whole | {"manifest.sig": b"AAAA"},
        "another manifest": whole
        | {"manifest.json": whole["manifest.json"].replace(b"cap_1", b"cap_2")},
        "a part behind": {**whole, "parts/000009.ndjson": b"x"},
        "nothing": {},
    }
    for parts in lies.values():
        path = made_of(tmp_path / "lie.capsule", parts)
        with pytest.raises(CapsuleError):
            verify(path)


def test_another_key_signs_another_capsule(capsule: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "b.capsule", tmp_path / "other")
    assert verify(other).public_key != verify(capsule).public_key
    forged = members(other) | {"manifest.json": members(capsule)["manifest.json"]}
    with pytest.raises(CapsuleError, match="signature"):
        verify(made_of(tmp_path / "forged.capsule", forged))


@pytest.mark.parametrize("content", [b"", b"x", b"\x1f\x8b", gzip.compress(b"x" * 100, mtime=0)])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(CapsuleError):
        verify(path)
    with pytest.raises(CapsuleError):
        verify(tmp_path / "nothing")
    with pytest.raises(CapsuleError):
        verify(tmp_path)


def test_a_link_in_a_capsule_leads_nowhere(tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("parts/000001.ndjson")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(raw.getvalue()))
    with pytest.raises(CapsuleError, match="no part"):
        verify(path)


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    signer = node_signer(tmp_path / "key")

    def fail() -> None:
        with CapsuleWriter(tmp_path / "a.capsule", signer, ABOUT) as writer:
            writer.add([b"x"])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_the_nodes_key_is_made_once_and_is_its_own(tmp_path: Path) -> None:
    assert known_key(tmp_path) is None
    one = node_signer(tmp_path)
    assert node_signer(tmp_path).public_key == one.public_key == known_key(tmp_path)
    assert (tmp_path / "capsule_key").stat().st_mode & 0o777 == 0o600
    signature = one.sign(b"x")
    assert holds(one.public_key, b"x", signature)
    assert not holds(one.public_key, b"y", signature)
    assert not holds("?", b"x", signature)
    assert not holds(one.public_key, b"x", b"?")
    assert len(fingerprint(one.public_key)) == 32


@pytest.mark.parametrize("capsule_id", ["../../evil", "/etc/x", "cap_a/../b", "run_1", "", "cap_"])
def test_an_id_that_is_none_is_refused_whoever_signed_it(tmp_path: Path, capsule_id: str) -> None:
    path = tmp_path / "a.capsule"
    with CapsuleWriter(path, node_signer(tmp_path), ABOUT | {"capsule_id": capsule_id}):
        pass
    with pytest.raises(CapsuleError, match="no capsule's id"):
        verify(path)


@pytest.mark.parametrize("failing", ["_end", "_flush"])
def test_what_cannot_be_ended_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = write(tmp_path / "a.capsule", tmp_path)
    before = path.read_bytes()

    def full(self: CapsuleWriter) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CapsuleWriter, failing, full)
    with pytest.raises(OSError, match="No space"):
        write(path, tmp_path)
    assert path.read_bytes() == before
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_key_that_was_broken_off_is_never_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            node_signer(tmp_path)
    assert known_key(tmp_path) is None
    with ThreadPoolExecutor(8) as at_once:
        keys = set(at_once.map(lambda _: node_signer(tmp_path).public_key, range(32)))
    assert keys == {known_key(tmp_path)}
    assert [p.name for p in tmp_path.iterdir()] == ["capsule_key"]
    assert (tmp_path / "capsule_key").stat().st_mode & 0o777 == 0o600
