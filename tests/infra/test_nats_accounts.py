"""The accounts' part of the configuration: what it grants is what is written, no more."""

import subprocess
from pathlib import Path

from agentos.infra import nats_accounts as accounts
from agentos.infra.nats_server import configure_nats, find_nats_binary, write_config

A = accounts.TenantAccount("tnt_a", "m1", {"sub_1": "$2a$04$" + "x" * 53})
B = accounts.TenantAccount("tnt_b", "m2")


def test_without_tenants_nothing_is_exported() -> None:
    assert accounts.core_exports([]) == ""
    assert accounts.account_blocks([], "AGENTOS") == ""


def test_an_account_is_given_its_own_tenants_events_only() -> None:
    assert "tnt_b" not in accounts.account_blocks([A], "AGENTOS")
    for line in accounts.core_exports([A, B]).splitlines():
        if "tnt_a" in line:
            assert 'accounts: ["TENANT_tnt_a"]' in line
            assert "tnt_b" not in line


def test_a_subscriber_may_call_nothing_that_changes_a_stream() -> None:
    (line,) = [x for x in accounts.account_blocks([A], "C").splitlines() if '"sub_1"' in x]
    for word in ("UPDATE", "PURGE", "STREAM.CREATE", "STREAM.DELETE", "SNAPSHOT", "LOG_0", "core."):
        assert word not in line


def test_the_server_accepts_it_and_a_start_keeps_it(tmp_path: Path) -> None:
    home = tmp_path / "nats"
    server = configure_nats(home, sync_always=False)
    accounts.write_accounts(home, {"tnt_a": A, "tnt_b": B}, applied="x")
    assert accounts.read_accounts(home) == {"tnt_a": A, "tnt_b": B}
    assert accounts.read_applied(home) == "x"
    write_config(server, accounts.read_accounts(home))
    text = server.config_file.read_text()
    command = [str(find_nats_binary()), "-t", "-c", str(server.config_file)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=20)
    assert done.returncode == 0, done.stderr
    again = configure_nats(home, sync_always=False)
    assert again.port == server.port
    assert again.config_file.read_text() == text
    assert again.config_file.stat().st_mode & 0o077 == 0
