"""The commands as a client of the HTTP API, on the node's machine or far from it."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn
from urllib.parse import quote, urlencode

import typer

from agentos.cli.node_client import describe
from agentos.cli.options import node_settings
from agentos.cli.pasteable import pasteable
from agentos.cli.token import scopes_of, sign
from agentos.infra.federation.tls import own_context
from agentos.infra.node.files import read_object
from agentos.infra.node.marker import read_marker
from agentos.infra.node.paths import NodePaths
from agentos.infra.settings import Settings

Url = Annotated[
    str | None,
    typer.Option("--url", help="A remote node's orchestrator; the credential is AGENTOS_TOKEN."),
]
FAILED: Final = 1
WRONG_USAGE: Final = 2
UNREACHABLE: Final = 3
TIMEOUT_S: Final = 30.0
AWAY: Final = (502, 503, 504)
KEY_FILE: Final = "admin_keys.json"
PLATFORM: Final = "platform_admin"


class AwayError(Exception):
    """The node cannot be reached now; it may be soon."""


@dataclass(frozen=True)
class Api:
    """One node's orchestrator and the credential for it."""

    base: str
    token: str
    default_tenant: str
    tls: ssl.SSLContext | None = None

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        idempotency_key: str | None = None,
        **query: Any,
    ) -> dict[str, Any]:
        """Return the answer; ends the command when there is none, or when it is an error."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url(path, query), content, headers, method=method)  # noqa: S310 - checked
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self.tls) as answer:  # noqa: S310 - checked
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as exc:
            _tell(exc)
        except (OSError, ValueError) as exc:
            end(f"{self.base} cannot be reached: {exc}", UNREACHABLE)

    def stream(self, path: str, after: str | None, **query: Any) -> Iterator[bytes]:
        """Yield the lines of an event stream behind the event with the id `after`.

        Raises `AwayError` when the node is away, or ends the stream and may be asked again;
        ends the command for any other error.
        """
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = after
        request = urllib.request.Request(self._url(path, query), None, headers)  # noqa: S310 - checked
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self.tls) as answer:  # noqa: S310 - checked
                yield from answer
        except urllib.error.HTTPError as exc:
            if exc.code not in AWAY:
                _tell(exc)
            raise AwayError(f"{self.base} answers {exc.code}") from exc
        except (OSError, HTTPException) as exc:
            raise AwayError(f"{self.base} cannot be reached: {exc}") from exc
        raise AwayError(f"{self.base} has ended the stream")

    def _url(self, path: str, query: Mapping[str, Any]) -> str:
        sent = {name: value for name, value in query.items() if value is not None}
        return f"{self.base}{path}{'?' if sent else ''}{urlencode(sent)}"

    def pages(self, path: str, name: str, **query: Any) -> dict[str, Any]:
        """Return a whole list, read page by page."""
        found: list[Any] = []
        cursor = None
        while True:
            answer = self.call("GET", path, limit=200, cursor=cursor, **query)
            found += answer[name]
            cursor = answer.get("next_cursor")
            if cursor is None:
                return {name: found, "correlation_id": answer["correlation_id"]}


def connect(
    url: str | None,
    data_dir: Path | None,
    door: str = "orchestrator",
    tenant: str | None = None,
) -> Api:
    """Return the API to talk to, at one of the node's doors.

    With `AGENTOS_TOKEN` as that credential; without it, on the node's machine, as
    `usr_platform_admin`: with the key of `agentos init`, else with a token that the node's
    own secret signs, for `tenant` or the default one. Raises `NodeNotStartedError` when there
    is no node here.
    """
    settings = node_settings(data_dir)
    base = (url or _endpoint_of(settings, door)).rstrip("/")
    if not base.startswith(("http://", "https://")):
        end(f"--url {base}: it must begin with http:// or https://", WRONG_USAGE)
    if not settings.token and url:
        end("--url needs a credential in AGENTOS_TOKEN", WRONG_USAGE)
    token = settings.token or _local_credential(settings, tenant)
    is_own = door == "federation" and base.startswith("https://")
    tls = own_context(settings) if is_own else None
    return Api(base, token, settings.default_tenant, tls)


def _endpoint_of(settings: Settings, door: str) -> str:
    """Return where the node answers: as it says itself, else as the settings say."""
    running = describe(NodePaths(settings.data_dir)) or {}
    endpoints: dict[str, str] = running.get("endpoints") or settings.endpoints
    return endpoints[door]


def key_file_of(settings: Settings) -> Path:
    """Return where `agentos init` has put the first keys, or will if it is not told."""
    paths = NodePaths(settings.data_dir)
    return Path(read_marker(paths).get("key_file", paths.data / KEY_FILE))


def _local_credential(settings: Settings, tenant: str | None) -> str:
    keys = read_object(key_file_of(settings)).get("keys", {})
    if PLATFORM in keys:
        return str(keys[PLATFORM]["secret"])
    if settings.profile == "prod":
        end("no credential here: agentos init --mode prod, or AGENTOS_TOKEN_FILE", FAILED)
    tenant_id = tenant or settings.default_tenant
    return sign(settings, tenant_id, PLATFORM, scopes_of(PLATFORM, None), 300)[0]


def part(text: str) -> str:
    """Return a text as one part of a path."""
    return quote(text, safe="")


def object_from(text: str, option: str) -> dict[str, Any]:
    """Return a JSON object that was given as text, or in a file as `@path`."""
    try:
        found = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, ValueError) as exc:
        end(f"{option}: no JSON object: {exc}", WRONG_USAGE)
    if not isinstance(found, dict):
        end(f"{option}: no JSON object", WRONG_USAGE)
    return found


def _tell(exc: urllib.error.HTTPError) -> NoReturn:
    try:
        error = json.load(exc)["error"]
        lines = [f"error: {error['code']}: {error['message']}"]
        lines += [
            f"  {'.'.join(map(str, e['loc']))}: {e['msg']}"
            for e in error["details"].get("errors", [])
            if e["msg"] not in error["message"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        end(f"error: HTTP {exc.code} from something that is no node", UNREACHABLE)
    end("\n".join(lines), UNREACHABLE if exc.code == 503 else FAILED)


def end(text: str, code: int) -> NoReturn:
    """End the command with a line on standard error."""
    typer.echo(pasteable(text), err=True)
    raise typer.Exit(code)
