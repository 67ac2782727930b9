"""The peers file: what is off stops the start, with the line and the field."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.infra.federation.json_lines import lines_of
from agentos.infra.federation.node import load_peers
from agentos.infra.federation.peers_file import PeersFileError, read_peers_file
from agentos.infra.node.errors import NodeError
from agentos.infra.node.preflight import peers
from agentos.infra.settings import Settings

B: dict[str, Any] = {
    "stack_id": "stk_b",
    "environment": "prod",
    "region": "eu",
    "api_versions": ["v1"],
    "endpoints": {
        "agent-orchestrator_base_url": "http://b.example:50081",
        "model-policy_base_url": "http://b.example:50082",
        "federation_base_url": "http://b.example:50083",
    },
    "build": {"version": "1", "git_sha": "x", "timestamp": "y"},
}


def written(path: Path, content: Any) -> Path:
    """Write a peers file: text as it is, anything else as JSON over several lines."""
    file = path / "peers.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return file


def test_a_good_one(tmp_path: Path) -> None:
    tls = {"tls": {"ca_cert": "x"}, "tenants": ["tnt_a"], "rights": ["runs:forward"]}
    secured = B | {"stack_id": "stk_c"} | tls
    secured["endpoints"] = B["endpoints"] | {"federation_base_url": "https://c.example"}
    local = B | {"stack_id": "stk_a"}
    file = written(tmp_path, {"local": local, "peers": [B, secured]})
    document = read_peers_file(file, "stk_local")
    assert [peer.stack_id for peer in document.peers] == ["stk_b", "stk_c"]
    assert [peer.is_keyed for peer in document.peers] == [False, True]
    assert document.peers[0].runs_url == "http://b.example:50081"
    assert document.peers[1].runs_url == "https://c.example"
    assert document.peers[0].serves("tnt_x")
    assert not document.peers[1].serves("tnt_x")


def test_the_settings_go_before_the_files_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, {"local": B | {"stack_id": "stk_a"}, "peers": []})
    monkeypatch.setenv("AGENTOS_PEERS_FILE", str(file))
    local, _ = load_peers(Settings.load())
    assert (local.stack_id, local.region) == ("stk_a", "eu")
    monkeypatch.setenv("AGENTOS_STACK_ID", "stk_z")
    monkeypatch.setenv("AGENTOS_REGION", "mars")
    local, _ = load_peers(Settings.load())
    assert (local.stack_id, local.region) == ("stk_z", "mars")


def peer(**changes: Any) -> dict[str, Any]:
    """Return a document with one peer that is off."""
    return {"peers": [B | changes]}


BAD: list[tuple[Any, int, str]] = [
    ("{", 1, "property name"),
    ('{"peers": [\n{"stack_id": \n}', 3, "Expecting value"),
    ("[]", 1, "(top)"),
    ({"peers": 5}, 2, "peers"),
    (peer(stack_id="b"), 4, "peers.0.stack_id"),
    (peer(stack_id="stk_a"), 4, "this node itself"),
    ({"peers": [B, B]}, 0, "peers.1.stack_id"),
    (peer(endpoints={}), 10, "agent-orchestrator_base_url"),
    (peer(endpoints={"agent-orchestrator_base_url": "ftp://x"}), 11, "agent-orchestrator"),
    (peer(rights=["runs:everything"]), 0, "peers.0.rights.0"),
    (peer(tennants=["tnt_a"]), 0, "did you mean tenants"),
    (peer(limits={"runs_per_minute": -1}), 0, "peers.0.limits.runs_per_minute"),
    (peer(tls={"ca_cert": "x"}), 0, "not https"),
    (peer(jwks_url="nonsense"), 0, "peers.0.jwks_url"),
    ('{"peers": [],\n "peers": []}', 2, "stands twice"),
    ("[" * 100_000, 1, ""),
]


@pytest.mark.parametrize(("content", "line", "said"), BAD)
def test_what_is_off_is_said_with_its_line(
    tmp_path: Path, content: Any, line: int, said: str
) -> None:
    file = written(tmp_path, content)
    with pytest.raises(PeersFileError) as raised:
        read_peers_file(file, "stk_a")
    text = str(raised.value)
    assert said in text
    found = int(text.removeprefix(f"AGENTOS_PEERS_FILE: {file}:").partition(":")[0])
    assert found == line or (line == 0 and found > 1), text


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("none.json", "."):
        with pytest.raises(PeersFileError, match="cannot be read"):
            read_peers_file(tmp_path / name, "stk_a")
    (tmp_path / "latin.json").write_bytes(b'{"peers": "\xff"}')
    with pytest.raises(PeersFileError, match="cannot be read"):
        read_peers_file(tmp_path / "latin.json", "stk_a")
    monkeypatch.setenv("AGENTOS_PEERS_FILE", str(tmp_path / "none.json"))
    with pytest.raises(NodeError, match="cannot be read"):
        peers(Settings.load())


def test_certificates_that_cannot_be_used_stop_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cert.pem").write_text("nonsense")
    monkeypatch.setenv("AGENTOS_FED_CERT", str(tmp_path / "cert.pem"))
    monkeypatch.setenv("AGENTOS_FED_KEY", str(tmp_path / "cert.pem"))
    with pytest.raises(NodeError, match="AGENTOS_FED_CERT"):
        peers(Settings.load())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_every_value_has_a_line(value: Any) -> None:
    text = json.dumps(value, indent=1)
    found = lines_of(text)

    def check(part: Any, path: tuple[str | int, ...]) -> None:
        assert 1 <= found[path] <= text.count("\n") + 1
        items = part.items() if isinstance(part, dict) else enumerate(part)
        for name, inner in items:
            assert found[(*path, name)] >= found[path]
            if isinstance(inner, dict | list):
                check(inner, (*path, name))

    if isinstance(value, dict | list):
        check(value, ())
    assert found[()] == 1
