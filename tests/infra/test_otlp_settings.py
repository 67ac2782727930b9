"""Where traces go, as the settings say it."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from agentos.infra.node.errors import NodeError
from agentos.infra.node.preflight import traces
from agentos.infra.node.workers import own_processes
from agentos.infra.otlp_settings import ExtraMissingError, headers_of, require_extra, traces_url
from agentos.infra.settings import Settings, SettingsError


def settings(tmp_path: Path, **more: str) -> Settings:
    return Settings.load({"AGENTOS_DATA_DIR": str(tmp_path), **more})


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("https://c.example/otlp/", "https://c.example/otlp/v1/traces"),
        ("https://c.example/otlp/v1/traces", "https://c.example/otlp/v1/traces"),
        ("http://[::1]:4318?key=1", "http://[::1]:4318/v1/traces?key=1"),
    ],
)
def test_the_url(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url


@pytest.mark.parametrize(
    "endpoint", ["collector:4318", "grpc://c:4317", "http://", "x", "http://[x", "http://c:x"]
)
def test_no_url(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="AGENTOS_OTLP_ENDPOINT must be a URL"):
        traces_url(endpoint)
    with pytest.raises(SettingsError):
        settings(tmp_path, AGENTOS_OTLP_ENDPOINT=endpoint)


def test_headers() -> None:
    assert headers_of("") == {}
    assert headers_of("authorization=Bearer%20a%2Cb, x-a = 1=2 ") == {
        "authorization": "Bearer a,b",
        "x-a": "1=2",
    }


@pytest.mark.parametrize(
    "text", ["s3cret", "a=1,,b=2", "a b=s3cret", "a=%0as3cret", "=s3cret", "a=1,"]
)
def test_no_headers_and_no_word_of_what_they_hold(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(tmp_path, AGENTOS_OTLP_HEADERS=text)
    assert "AGENTOS_OTLP_HEADERS: pair" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_secrets_are_starred_out(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        AGENTOS_OTLP_ENDPOINT="http://me:s3cret@c:4318",
        AGENTOS_OTLP_HEADERS="authorization=s3cret",
    )
    assert "s3cret" not in repr(found)
    assert "s3cret" not in repr(found.shown())
    assert "s3cret" not in traces(found)


def test_a_tracer_runs_only_where_traces_go_somewhere(tmp_path: Path) -> None:
    def names(found: Settings) -> list[str]:
        return [spec.name for spec in own_processes(found)]

    assert "tracer" not in names(settings(tmp_path))
    assert "tracer" in names(settings(tmp_path, AGENTOS_OTLP_ENDPOINT="http://c:4318"))


def test_without_the_extra_the_start_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_extra()
    found = importlib.util.find_spec

    def missing(name: str) -> ModuleSpec | None:
        return None if name.startswith("opentelemetry.sdk") else found(name)

    monkeypatch.setattr("agentos.infra.otlp_settings.importlib.util.find_spec", missing)
    with pytest.raises(ExtraMissingError):
        require_extra()
    with pytest.raises(NodeError) as caught:
        traces(settings(tmp_path, AGENTOS_OTLP_ENDPOINT="http://c:4318"))
    assert "the extra `otel` is not installed" in str(caught.value)
    assert caught.value.next_step.startswith("pip install 'agentos[otel]'")
    assert traces(settings(tmp_path)) == "none"
