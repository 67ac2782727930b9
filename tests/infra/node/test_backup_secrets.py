"""The node's secrets in a backup: whatever bytes they are, and for their owner only."""

from pathlib import Path

from agentos.infra.node.backup import SECRETS, _keep_secrets, bring_back_secrets


def test_keys_that_are_no_text_come_back_too(tmp_path: Path) -> None:
    data, out, other = (tmp_path / name for name in ("data", "out", "other"))
    for directory in (data, out, other):
        directory.mkdir()
    secrets = {"capsule_key": bytes(range(224, 256)), "content_key": b"text\n"}
    for name, content in secrets.items():
        (data / name).write_bytes(content)
    (data / "state.json").write_text("{}")
    _keep_secrets(data, out / SECRETS)
    assert bring_back_secrets(out, other) == sorted(secrets)
    assert {path.name: path.read_bytes() for path in other.iterdir()} == secrets
    assert all(path.stat().st_mode & 0o077 == 0 for path in other.iterdir())
