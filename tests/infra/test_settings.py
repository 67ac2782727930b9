"""Settings: precedence, clear errors, secrets, and what prod refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agentos.infra.retention import ArchiveDirectory, archive_directory, retention_rules
from agentos.infra.settings import (
    NodeNotStartedError,
    Settings,
    SettingsError,
    mask,
    variables,
)

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load settings in an empty directory from exactly this environment and file."""
    monkeypatch.chdir(tmp_path)

    def load(
        flags: dict[str, str | None] | None = None, *, file: str = "", **environ: str
    ) -> Settings:
        for name in variables():
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(f"AGENTOS_{name}", value)
        (tmp_path / ".agentos.env").write_text(file)
        return Settings.load(flags)

    return load


@pytest.fixture
def prod(tmp_path: Path) -> dict[str, str]:
    """The least environment that prod accepts."""
    secret = tmp_path / "secret"
    secret.write_text("s" * 32 + "\n")
    dsn = tmp_path / "dsn"
    dsn.write_text("postgresql://agentos:hidden@db/agentos\n")
    return {
        "PROFILE": "prod",
        "DATA_DIR": str(tmp_path / "data"),
        "NATS_URL": "nats://broker:4222",
        "POSTGRES_DSN_FILE": str(dsn),
        "JWT_SECRET_FILE": str(secret),
        "METRICS_REQUIRE_AUTH": "1",
    }


def test_defaults_are_those_of_a_dev_node(load: Load, tmp_path: Path) -> None:
    settings = load()
    assert settings.profile == "dev"
    assert settings.data_dir == tmp_path / ".agentos"
    assert settings.allow_dev_headers
    assert settings.default_tenant == "tnt_demo"
    assert settings.durability == "power"
    assert settings.endpoints["federation"] == "http://127.0.0.1:50083"
    assert settings.openai_models == ()


def test_a_flag_wins_over_the_environment_and_that_over_the_file(load: Load) -> None:
    file = "# ours\nAGENTOS_REGION=file\nexport AGENTOS_STACK_ID='stk_file'\nAGENTOS_ENVIRONMENT=f"
    settings = load({"AGENTOS_REGION": "flag"}, file=file, REGION="env", STACK_ID="stk_env")
    assert (settings.region, settings.stack_id, settings.environment) == ("flag", "stk_env", "f")
    sources = {row["name"]: row["source"] for row in settings.shown()}
    assert sources["AGENTOS_REGION"] == "flag"
    assert sources["AGENTOS_STACK_ID"] == "environment"
    assert sources["AGENTOS_ENVIRONMENT"] == "file"
    assert sources["AGENTOS_HOST"] == "default"


def test_an_unknown_name_is_an_error_that_suggests_the_nearest(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTOS_NATS_ULR", "x")
    with pytest.raises(SettingsError, match=r"AGENTOS_NATS_ULR .*mean AGENTOS_NATS_URL"):
        load()
    monkeypatch.delenv("AGENTOS_NATS_ULR")
    with pytest.raises(SettingsError, match=r"AGENTOS_REGIN .file. is not a setting"):
        load(file="AGENTOS_REGIN=x")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ORCHESTRATOR_PORT", "http", "must be a whole number from 1 to 65535"),
        ("FEDERATION_PORT", "70000", "must be a whole number from 1 to 65535"),
        ("EXECUTOR_SLOTS", "0", "must be a whole number from 1"),
        ("EXECUTOR_SLOTS", "-1", "must be a whole number"),
        ("METRICS_REQUIRE_AUTH", "maybe", "must be 1 or 0"),
        ("PROFILE", "production", "must be one of: demo, dev, prod"),
        ("DURABILITY", "none", "must be one of: power, process"),
        ("HOST", "example.org", "must be an IP address or localhost"),
        ("MODEL_POLICY_PORT", "50081", "are both 50081"),
        ("JWT_SECRET_FILE", "/nowhere/secret", "cannot be read"),
    ],
)
def test_a_bad_value_is_named(load: Load, name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        load(**{name: value})
    assert f"AGENTOS_{name}" in str(caught.value)


def test_all_problems_are_told_at_once(load: Load) -> None:
    with pytest.raises(SettingsError) as caught:
        load(HOST="x", DURABILITY="y", ORCHESTRATOR_PORT="z")
    assert len(caught.value.problems) == 3


def test_a_secret_comes_from_its_file_first_and_never_shows(load: Load, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    settings = load(OPENAI_API_KEY="plain", OPENAI_API_KEY_FILE="key", NATS_URL="nats://u:pass@h:1")
    assert settings.openai_api_key == "from-file"
    told = repr(settings) + str(settings.shown())
    assert "from-file" not in told
    assert "pass@" not in told
    assert "nats://u:********@h:1" in told


def test_a_child_process_gets_the_same_settings(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("k")
    settings = load({"AGENTOS_PROFILE": "demo"}, file="AGENTOS_REGION=r", OPENAI_API_KEY_FILE="key")
    environ = settings.child_environment()
    assert environ["AGENTOS_OPENAI_API_KEY_FILE"] == str(tmp_path / "key")
    assert "AGENTOS_OPENAI_API_KEY" not in environ
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    again = Settings.load()
    for name, spec in variables().items():
        assert getattr(again, spec.name) == getattr(settings, spec.name), name


def test_prod_starts_with_the_least_it_asks_for(load: Load, prod: dict[str, str]) -> None:
    settings = load(**prod)
    assert settings.profile == "prod"
    assert not settings.allow_dev_headers
    assert settings.default_tenant == ""
    assert settings.postgres_dsn == "postgresql://agentos:hidden@db/agentos"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"DATA_DIR": ""}, "AGENTOS_DATA_DIR must be set"),
        ({"NATS_URL": ""}, "AGENTOS_NATS_URL must be set"),
        ({"POSTGRES_DSN_FILE": ""}, "AGENTOS_POSTGRES_DSN must be set"),
        ({"NATS_URL": "nats://u:p@h"}, "AGENTOS_NATS_URL is a secret"),
        ({"POSTGRES_DSN_FILE": "", "POSTGRES_DSN": "host=h password=p"}, "_DSN is a secret"),
        ({"ALLOW_DEV_HEADERS": "1"}, "AGENTOS_ALLOW_DEV_HEADERS must be empty"),
        ({"DEFAULT_TENANT": "tnt_a"}, "AGENTOS_DEFAULT_TENANT must be empty"),
        ({"CRASH_POINT": "after_append"}, "AGENTOS_CRASH_POINT must be empty"),
        ({"METRICS_REQUIRE_AUTH": "0"}, "AGENTOS_METRICS_REQUIRE_AUTH must be 1"),
        ({"DURABILITY": "process"}, "AGENTOS_DURABILITY=process is refused"),
        ({"JWT_SECRET_FILE": ""}, "prod needs AGENTOS_OIDC_ISSUER"),
        ({"JWT_SECRET_FILE": "", "JWT_SECRET": "s" * 32}, "AGENTOS_JWT_SECRET is a secret"),
        ({"OPENAI_API_KEY": "sk"}, "AGENTOS_OPENAI_API_KEY is a secret"),
        ({"OIDC_ISSUER": "https://i"}, "must be set together"),
        ({"PEERS_FILE": "/nowhere"}, "AGENTOS_PEERS_FILE: /nowhere cannot be read"),
        ({"PEERS_FILE": "/dev/null"}, "AGENTOS_FED_REQUIRE_MTLS must be 1"),
        ({"PEERS_FILE": "/dev/null", "FED_REQUIRE_MTLS": "1"}, "AGENTOS_FED_KEY must name"),
    ],
)
def test_prod_refuses(load: Load, prod: dict[str, str], change: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**{**prod, **change})
    assert says in str(caught.value)


def test_a_short_secret_is_refused_in_prod(
    load: Load, prod: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "short").write_text("s" * 31)
    with pytest.raises(SettingsError, match="at least 32 bytes"):
        load(**{**prod, "JWT_SECRET_FILE": str(tmp_path / "short")})


def test_the_runtime_is_what_is_set_or_what_the_node_wrote(load: Load, tmp_path: Path) -> None:
    settings = load(NATS_URL="nats://set")
    with pytest.raises(NodeNotStartedError, match="agentos up"):
        settings.runtime()
    (tmp_path / ".agentos").mkdir()
    written = '{"nats_url": "nats://written", "postgres_dsn": "dbname=written"}'
    (tmp_path / ".agentos" / "runtime.json").write_text(written)
    (tmp_path / ".agentos" / "jwt_secret").write_text("secret\n")
    runtime = settings.runtime()
    assert runtime.nats_url == "nats://set"
    assert runtime.postgres_dsn == "dbname=written"
    assert runtime.jwt_secret == "secret"
    assert "secret" not in repr(runtime).replace("jwt_secret", "")


def test_masking_hides_passwords_in_every_form() -> None:
    assert mask("postgresql://u:pw@h/d", "password") == "postgresql://u:********@h/d"
    assert mask("host=h password=pw user=u", "password") == "host=h password=******** user=u"
    assert mask("nats://h:4222", "password") == "nats://h:4222"
    assert mask("anything", "all") == "********"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"RETENTION_RUNS": "soon"}, "'soon' is no age"),
        ({"RETENTION_RUNS": "0d"}, "is no age"),
        ({"RETENTION_USAGE": "90d", "RETENTION_ARCHIVE": "none"}, "bills"),
        ({"RETENTION_AUDIT": "90d"}, "is not a setting"),
        ({"RETENTION_EVERY_S": "0"}, "whole number"),
    ],
)
def test_retention_that_cannot_be_is_refused(load: Load, change: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load(**change)


def test_retention_is_off_by_default_and_short_only_for_trials(
    load: Load, prod: dict[str, str]
) -> None:
    assert retention_rules(load()).ages == {}
    assert retention_rules(load(RETENTION_RUNS="2s")).ages == {"runs": 2000}
    with pytest.raises(SettingsError, match="1d at least"):
        load(**prod, RETENTION_RUNS="23h")
    assert retention_rules(load(**prod, RETENTION_RUNS="1d")).ages == {"runs": 86_400_000}


def test_archives_go_where_the_settings_say(load: Load, tmp_path: Path) -> None:
    settings = load()
    assert archive_directory(settings) == ArchiveDirectory(settings.data_dir / "archive")
    assert archive_directory(load(RETENTION_ARCHIVE="none")) is None
    relative = load(RETENTION_ARCHIVE="kept")
    assert archive_directory(relative) == ArchiveDirectory(tmp_path / "kept")
    assert relative.child_environment()["AGENTOS_RETENTION_ARCHIVE"] == str(tmp_path / "kept")
