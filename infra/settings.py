"""The settings of a node: every variable is known here, and only here is the environment read."""
# ruff: noqa: RUF009 - each call below returns a dataclass field

import difflib
import ipaddress
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

PREFIX = "AGENTOS_"
ENV_FILE = ".agentos.env"
Profile = Literal["demo", "dev", "prod"]
Durability = Literal["power", "process"]
Origin = Literal["flag", "environment", "file", "default"]

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_PASSWORD = re.compile(r"(password\s*=\s*)(\S+)", re.IGNORECASE)
_DEMO_DEFAULTS = {"AGENTOS_ALLOW_DEV_HEADERS": "1", "AGENTOS_DEFAULT_TENANT": "tnt_demo"}


class SettingsError(Exception):
    """The settings do not fit together; the message names each variable and what to do."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class NodeNotStartedError(SettingsError):
    """What a node writes down when it starts is not there yet: start it first."""


def _variable(kind: str, default: str, text: str, *, hide: str = "", choices: str = "") -> Any:
    """Describe one variable; its name is `AGENTOS_` and the field's name in capitals.

    `kind` is text, home, path, archive (a path or `none`), port, count, flag, list or host.
    `hide` says what of it is secret: `""`, `"all"` or `"password"` (the one inside it); such a
    variable X may come from the file that `X_FILE` names.
    """
    return field(
        repr=not hide,
        metadata={
            "kind": kind,
            "default": default,
            "help": text,
            "hide": hide,
            "choices": tuple(choices.split()),
        },
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The validated settings of one node; a field is named like its variable."""

    profile: Profile = _variable("text", "dev", "mode of the node", choices="demo dev prod")
    data_dir: Path = _variable("home", ".agentos", "where the node keeps everything")
    reports_dir: Path = _variable("path", "reports", "where up, validate and nuke write reports")
    host: str = _variable("host", "127.0.0.1", "address that the gateways listen on")
    orchestrator_port: int = _variable("port", "50081", "port of the orchestrator gateway")
    model_policy_port: int = _variable("port", "50082", "port of the model and policy gateway")
    federation_port: int = _variable("port", "50083", "port of the federation gateway")
    model_gateway_url: str = _variable(
        "text", "", "where executors reach the model gateway; empty: on this machine"
    )
    nats_url: str = _variable("text", "", "NATS to use; empty: an embedded one", hide="password")
    postgres_dsn: str = _variable(
        "text", "", "PostgreSQL to use; empty: an embedded one", hide="password"
    )
    qdrant_url: str = _variable(
        "text", "", "Qdrant to use; empty: an embedded one", hide="password"
    )
    allow_dev_headers: bool = _variable(
        "flag", "", "X-Tenant-Id and X-Principal-Id identify a caller (on in demo and dev)"
    )
    default_tenant: str = _variable(
        "text", "", "tenant of CLI commands and seeds (tnt_demo in demo and dev)"
    )
    jwt_secret: str = _variable(
        "text", "", "signs local tokens; empty: generated in the data directory", hide="all"
    )
    audit_key: str = _variable(
        "text",
        "",
        "Ed25519 key (PEM) that signs the audit; empty: generated in the data directory",
        hide="all",
    )
    content_key: str = _variable(
        "text",
        "",
        "wraps data subjects' keys; empty: generated in the data directory",
        hide="all",
    )
    oidc_issuer: str = _variable("text", "", "issuer whose tokens are accepted")
    oidc_audience: str = _variable("text", "", "audience that those tokens must name")
    oidc_jwks_url: str = _variable("text", "", "where the issuer's keys are; empty: it says")
    metrics_require_auth: bool = _variable("flag", "0", "GET /metrics asks for a credential")
    idempotency_ttl_hours: int = _variable("count", "24", "how long idempotency keys are kept")
    retention_runs: str = _variable(
        "text", "forever", "how long ended runs are kept in the log: a number and s, m, h or d"
    )
    retention_remote_runs: str = _variable(
        "text", "forever", "how long copies of ended runs at peers are kept in the log"
    )
    retention_usage: str = _variable(
        "text", "forever", "how long the events of usage are kept in the log"
    )
    retention_quota: str = _variable(
        "text", "forever", "how long events of quotas before their last balance are kept"
    )
    retention_archive: str = _variable(
        "archive", "", "where what goes is kept; empty: in the data directory; none: nowhere"
    )
    retention_every_s: int = _variable("count", "600", "seconds between two rounds of retention")
    peers_file: Path | None = _variable("path", "", "the peers of this node; empty: no federation")
    otlp_endpoint: str = _variable(
        "text", "", "OpenTelemetry collector (OTLP over HTTP); empty: no traces", hide="password"
    )
    otlp_headers: str = _variable(
        "text", "", "headers of every export, name=value, comma separated", hide="all"
    )
    stack_id: str = _variable("text", "stk_local", "id of this node among its peers")
    environment: str = _variable("text", "local", "environment that the node stands in")
    region: str = _variable("text", "local", "region that the node stands in")
    fed_ca_cert: Path | None = _variable("path", "", "certificate authority of the peers")
    fed_cert: Path | None = _variable("path", "", "certificate that is shown to peers")
    fed_key: Path | None = _variable("path", "", "key of that certificate")
    fed_require_mtls: bool = _variable("flag", "0", "peers must show a client certificate")
    fed_leaf_listen: str = _variable(
        "text", "", "host:port where the embedded NATS takes peers' leaf nodes; empty: none"
    )
    fed_forward_max_attempts: int = _variable("count", "3", "how often a peer is asked for a run")
    fed_forward_base_backoff_ms: int = _variable(
        "count", "250", "the first pause between those attempts; each next one is twice as long"
    )
    durability: Durability = _variable(
        "text",
        "power",
        "power: fsync before the answer; process: survives the death of any process",
        choices="power process",
    )
    models_file: Path | None = _variable(
        "path", "", "models, prices and routes of this node (JSON); empty: out of the box"
    )
    openai_base_url: str = _variable("text", "", "an OpenAI-compatible server for models")
    openai_api_key: str = _variable("text", "", "key for that server", hide="all")
    openai_models: tuple[str, ...] = _variable("list", "", "models it has; empty: any")
    max_body_bytes: int = _variable("count", "1048576", "largest request body")
    http_fetch_allowlist: tuple[str, ...] = _variable(
        "list", "", "host or host:port globs that tool.http.fetch may reach; empty: none"
    )
    http_fetch_allow_private: bool = _variable(
        "flag", "0", "tool.http.fetch may reach private addresses"
    )
    model_calls_days: int = _variable("count", "90", "how long single model calls are explained")
    executor_slots: int = _variable("count", "256", "runs that one executor works on at a time")
    approval_timeout_s: int = _variable(
        "count", "604800", "how long a tool call waits for a person before it counts as rejected"
    )
    handler_processes: int = _variable("count", "1", "how many handler processes run")
    executor_processes: int = _variable("count", "1", "how many executor processes run")
    log_level: str = _variable(
        "text", "info", "least level that is logged", choices="debug info warning error"
    )
    min_free_mb: int = _variable("count", "200", "free disk space that a node needs to start")
    token: str = _variable("text", "", "credential of a remote client of the CLI", hide="all")
    crash_point: str = _variable(
        "text", "", "for tests: the named point in the code where a process kills itself"
    )
    probe_dir: Path | None = _variable(
        "path", "", "for tests: the directory in which the probe tools count their calls"
    )
    process_name: str = ""
    origins: Mapping[str, Origin] = field(default_factory=dict, repr=False)
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)

    @staticmethod
    def load(flags: Mapping[str, str | None] | None = None) -> "Settings":
        """Read flags, the environment and `.agentos.env`, in this order of precedence.

        `flags` maps variable names to values; `None` and `""` mean "not given", here and
        everywhere. Raises `SettingsError` that lists every problem at once.
        """
        given = {name: value for name, value in (flags or {}).items() if value}
        return _load(given, dict(os.environ), _read_env_file(Path(ENV_FILE)))

    @property
    def ports(self) -> dict[str, int]:
        """Return the port of each gateway by its name in `status`."""
        return {
            "orchestrator": self.orchestrator_port,
            "model_policy": self.model_policy_port,
            "federation": self.federation_port,
        }

    @property
    def endpoints(self) -> dict[str, str]:
        """Return the base URL of each gateway, as a client on this machine reaches it."""
        wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
        host = wildcard.get(self.host, self.host)
        shown = f"[{host}]" if ":" in host else host
        tls = {"federation"} if self.fed_cert else set[str]()
        return {
            name: f"{'https' if name in tls else 'http'}://{shown}:{port}"
            for name, port in self.ports.items()
        }

    def runtime(self) -> "Runtime":
        """Return what a process of the node connects with: set, or written by the node at start.

        Raises `NodeNotStartedError` when the node has not written it yet.
        """
        written = _read_runtime(self.data_dir / "runtime.json")
        found = Runtime(
            nats_url=self.nats_url or written.get("nats_url", ""),
            postgres_dsn=self.postgres_dsn or written.get("postgres_dsn", ""),
            jwt_secret=self.jwt_secret or _read_local_secret(self.data_dir / "jwt_secret"),
        )
        if not (found.nats_url and found.postgres_dsn):
            raise NodeNotStartedError(
                [f"no node was started in {self.data_dir}; start it with `agentos up`"]
            )
        return found

    def shown(self) -> list[dict[str, str]]:
        """Return every variable as `{name, value, source, help}`, secrets masked."""
        return [
            {
                "name": name,
                "value": mask(self.texts.get(name, ""), spec.metadata["hide"]),
                "source": self.origins.get(name, "default"),
                "help": spec.metadata["help"],
            }
            for name, spec in variables().items()
        ]

    def child_environment(self) -> dict[str, str]:
        """Return the environment for a process that must have exactly these settings.

        Every value is written out, so the working directory and its `.agentos.env` no longer
        matter. A secret that came from a file is handed on as the file.
        """
        others = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        return {**others, **{name: text for name, text in _handed_on(self) if text}}


@dataclass(frozen=True)
class Runtime:
    """What the processes of a node connect with."""

    nats_url: str = field(repr=False)
    postgres_dsn: str = field(repr=False)
    jwt_secret: str = field(repr=False)


def mask(text: str, hide: str) -> str:
    """Return the text with its secret part (`all` of it, or the `password` in it) starred out."""
    if not (text and hide):
        return text
    if hide == "all":
        return "********"
    password = urlsplit(text).password if "://" in text else None
    hidden = text.replace(f":{password}@", ":********@") if password else text
    return _PASSWORD.sub(r"\1********", hidden)


def variables() -> dict[str, Field[Any]]:
    """Return every known variable by its name, with what is known of it in `metadata`."""
    return {PREFIX + f.name.upper(): f for f in fields(Settings) if f.metadata}


def _handed_on(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, spec in variables().items():
        value = getattr(settings, spec.name)
        if f"{name}_FILE" in settings.texts:
            yield f"{name}_FILE", settings.texts[f"{name}_FILE"]
        elif isinstance(value, Path) or spec.metadata["kind"] == "archive":
            yield name, str(value)
        elif settings.origins.get(name, "default") != "default":
            yield name, settings.texts[name]


def _read_runtime(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise SettingsError([f"{path} cannot be read: {exc}"]) from exc
    return {str(k): str(v) for k, v in content.items()}


def _read_local_secret(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as exc:
        raise SettingsError([f"{path} cannot be read: {exc}"]) from exc


def _read_env_file(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise SettingsError([f"{path} cannot be read: {exc}"]) from exc
    pairs: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix("export ").strip()
        if not text or text.startswith("#"):
            continue
        name, found, value = text.partition("=")
        if not found:
            raise SettingsError([f"{path}:{number}: expected NAME=value"])
        pairs[name.strip()] = _unquoted(value.strip())
    return pairs


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def _load(flags: dict[str, str], environ: dict[str, str], file: dict[str, str]) -> Settings:
    layers: list[tuple[Origin, dict[str, str]]] = [
        ("flag", flags),
        ("environment", environ),
        ("file", file),
    ]
    problems = [problem for origin, layer in layers for problem in _unknown(origin, layer)]
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    origins: dict[str, Origin] = {}
    profile = _first("AGENTOS_PROFILE", layers)[1] or "dev"
    for name, spec in variables().items():
        try:
            texts[name], origins[name] = _text(name, spec, layers, profile, texts)
            values[spec.name] = _parse(name, spec, texts[name])
        except SettingsError as exc:
            problems += exc.problems
    if not problems:
        from agentos.infra.settings_rules import clashes, unsafe_in_prod  # noqa: PLC0415 - needs us

        settings = Settings(**values, origins=origins, texts=texts)
        problems = clashes(settings) + (unsafe_in_prod(settings) if profile == "prod" else [])
    if problems:
        raise SettingsError(problems)
    return settings


def _unknown(origin: Origin, layer: Mapping[str, str]) -> Iterator[str]:
    known = set(variables()) | {f"{n}_FILE" for n, f in variables().items() if f.metadata["hide"]}
    for name in sorted(n for n in layer if n.startswith(PREFIX) and n not in known):
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        yield f"{name} ({origin}) is not a setting; did you mean {nearest}?"


def _first(name: str, layers: list[tuple[Origin, dict[str, str]]]) -> tuple[Origin, str]:
    found = ((origin, layer[name]) for origin, layer in layers if layer.get(name))
    return next(found, ("default", ""))


def _text(
    name: str,
    spec: Field[Any],
    layers: list[tuple[Origin, dict[str, str]]],
    profile: str,
    texts: dict[str, str],
) -> tuple[str, Origin]:
    if spec.metadata["hide"]:
        origin, path = _first(f"{name}_FILE", layers)
        if path:
            texts[f"{name}_FILE"] = str(Path(path).expanduser().absolute())
            return _secret_from(name, path), origin
    origin, text = _first(name, layers)
    if text:
        return text.strip(), origin
    for_demo = _DEMO_DEFAULTS.get(name, "") if profile != "prod" else ""
    return spec.metadata["default"] or for_demo, "default"


def _secret_from(name: str, path: str) -> str:
    try:
        text = Path(path).expanduser().read_text().strip()
    except (OSError, ValueError) as exc:
        raise SettingsError([f"{name}_FILE: {path} cannot be read: {exc}"]) from exc
    if not text:
        raise SettingsError([f"{name}_FILE: {path} is empty"])
    return text


def _parse(name: str, spec: Field[Any], text: str) -> Any:
    choices = spec.metadata["choices"]
    if choices and text not in choices:
        raise SettingsError([f"{name}={text!r} must be one of: {', '.join(choices)}"])
    match spec.metadata["kind"]:
        case "home":  # one name for one directory, however it is reached
            return Path(text).expanduser().resolve()
        case "path":
            return Path(text).expanduser().absolute() if text else None
        case "archive":
            return text if text in ("", "none") else str(Path(text).expanduser().absolute())
        case "port":
            return _number(name, text, 1, 65535)
        case "count":
            return _number(name, text, 1, 2**53)
        case "flag":
            return _flag(name, text)
        case "list":
            return tuple(part.strip() for part in text.split(",") if part.strip())
        case "host":
            return _address(name, text)
        case _:
            return text


def _number(name: str, text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,16}", text) or not least <= int(text) <= most:
        raise SettingsError([f"{name}={text!r} must be a whole number from {least} to {most}"])
    return int(text)


def _flag(name: str, text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text and text.lower() not in _FALSE:
        raise SettingsError([f"{name}={text!r} must be 1 or 0"])
    return False


def _address(name: str, text: str) -> str:
    if text == "localhost":
        return text
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise SettingsError([f"{name}={text!r} must be an IP address or localhost"]) from None
