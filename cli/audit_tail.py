"""`agentos audit tail`: a tenant's records as they are made, for as long as somebody looks."""

import json
import os
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from agentos.cli.api_client import UNREACHABLE, AwayError, Url, connect, end
from agentos.cli.audit_options import Action, OfPrincipal, OfRun, OfTenant, Outcome
from agentos.cli.moments import since_ms
from agentos.cli.options import AsJson, DataDir
from agentos.cli.tables import printable
from agentos.domain.times import rfc3339
from agentos.infra.node.errors import NodeError
from agentos.infra.settings import NodeNotStartedError

PATH: Final = "/v1/audit/events"
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 2.0
Since = Annotated[str | None, typer.Option("--since", help="Begin back then: 30m, 7d, or a time.")]
Last = Annotated[
    int, typer.Option("-n", "--last", min=0, max=10_000, help="How many past records.")
]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(tail)


def tail(  # noqa: PLR0917 - typer makes options of them
    tenant: OfTenant = None,
    action: Action = None,
    principal: OfPrincipal = None,
    outcome: Outcome = None,
    run: OfRun = None,
    since: Since = None,
    last: Last = 10,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print a tenant's records as they are made, until Ctrl-C.

    A node that restarts is waited for, and nothing is missed or printed twice. With --json a
    record a line.
    """
    wanted = {
        "tenant_id": tenant, "action": action, "principal_id": principal, "outcome": outcome,
        "run_id": run, "since": None if since is None else rfc3339(since_ms(since)),
        "last": last if since is None else None,
    }  # fmt: skip
    show = _as_json if as_json else _as_text
    try:
        for record in Followed(url, data_dir, wanted).records():
            sys.stdout.write(show(record) + os.linesep)
            sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on. What Python would still flush at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Followed:
    """A stream of records that is taken up again, behind the last record, whenever it ends."""

    def __init__(self, url: str | None, data_dir: Path | None, wanted: dict[str, Any]) -> None:
        self._url = url
        self._data_dir = data_dir
        self._wanted = wanted
        self._after: str | None = None
        self._begun = False
        self._pause = 0.0

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield records for ever; ends the command when the node was never there."""
        sequence = 0
        while True:
            try:
                for record in self._once():
                    if record["sequence"] > sequence:
                        sequence = record["sequence"]
                        yield record
            except (AwayError, NodeNotStartedError, NodeError) as exc:
                self._wait(exc)

    def _once(self) -> Iterator[dict[str, Any]]:
        # Made anew each time: a node's own credential is short-lived, and its ports may move.
        api = connect(self._url, self._data_dir)
        kind = ""
        for line in api.stream(PATH, self._after, **self._wanted):
            name, _, value = line.rstrip(b"\r\n").partition(b": ")
            if not self._begun or self._pause:
                self._back()
            if name == b"event":
                kind = value.decode()
            elif name == b"id":
                self._after = value.decode()
            elif name == b"data":
                yield _record_in(kind, value)
            elif not line.strip():
                _require_reader()

    def _back(self) -> None:
        if self._pause > FIRST_PAUSE_S:
            typer.echo("the node is back", err=True)
        self._begun, self._pause = True, 0.0

    def _wait(self, exc: Exception) -> None:
        if not self._begun:
            end(f"error: {exc}", UNREACHABLE)
        if self._pause == FIRST_PAUSE_S:
            typer.echo(f"{exc}; waiting for it", err=True)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S) or FIRST_PAUSE_S
        time.sleep(self._pause)


def _record_in(kind: str, data: bytes) -> dict[str, Any]:
    """Return the record of an event; an error that ends the stream is raised, or ends all."""
    said = json.loads(data)
    if kind == "agentos.error":
        error = said["error"]
        if error["retryable"]:
            raise AwayError(f"{error['code']}: {error['message']}")
        end(f"error: {error['code']}: {error['message']}", 1)
    record: dict[str, Any] = said["event"]["payload"]
    return record


def _require_reader() -> None:
    """Raise `BrokenPipeError` once nobody reads what is printed, also while nothing is."""
    watch = select.poll()
    try:
        watch.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # no file behind it
        return
    if any(state & (select.POLLERR | select.POLLNVAL) for _, state in watch.poll(0)):
        raise BrokenPipeError


def _as_json(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


def _as_text(record: dict[str, Any]) -> str:
    words = [
        record["time"], f"{record['sequence']:>7}", f"{record['outcome']:<7}",
        f"{record['action']:<24}", record["resource"], record["principal"]["principal_id"],
    ]  # fmt: skip
    return printable(" ".join([*words, record.get("reason") or ""]).rstrip())
