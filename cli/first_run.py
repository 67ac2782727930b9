"""The first run that `up` shows in demo mode, live."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape

from agentos.cli.pasteable import pasteable
from agentos.cli.token import scopes_of, sign
from agentos.infra.settings import Settings

AGENT = "agt_sample_echo_v1"
_INPUT = {"input": {"type": "text", "text": "Hello from AgentOS"}}


def show_first_run(console: Console, settings: Settings) -> bool:
    """Start a run, print its events as they come, and the commands to do it oneself."""
    base, role = settings.endpoints["orchestrator"], "tenant_admin"
    token, _ = sign(settings, settings.default_tenant, role, scopes_of(role, None))
    console.print("[bold]a first run[/]")
    try:
        with _request(f"{base}/v1/agents/{AGENT}/runs", token, _INPUT) as answer:
            run = json.load(answer)["run"]
        console.print(f"  {run['run_id']} accepted")
        for event in _events(f"{base}{run['events_url']}", token):
            kind, data = event["type"], json.dumps(event["payload"])
            console.print(
                f"  {event['sequence']:>3} {kind} [dim]{escape(data[:100])}[/]",
                soft_wrap=True,
                highlight=False,
            )
    except (OSError, ValueError, KeyError) as exc:
        console.print(f"  [red]✗[/] it did not work: {escape(str(exc))}")
        step = escape(pasteable("agentos logs gateway"))
        console.print(f"next: [bold]{step}[/]", soft_wrap=True, highlight=False)
        return False
    _show_commands(console, base)
    return True


def _request(url: str, token: str, body: dict[str, Any] | None = None) -> Any:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    content = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, content, headers)  # noqa: S310 - our own gateway
    return urllib.request.urlopen(request, timeout=15)  # noqa: S310 - as above


def _events(url: str, token: str) -> Iterator[dict[str, Any]]:
    with _request(url, token) as stream:
        for line in stream:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])["event"]


def _show_commands(console: Console, base: str) -> None:
    lines = (
        "Try it yourself:",
        pasteable("  TOKEN=$(agentos token --tenant tnt_demo --role tenant_admin)"),
        f'  curl -s {base}/v1/agents/agt_demo/runs -H "Authorization: Bearer $TOKEN" \\',
        "    -H 'Content-Type: application/json' \\",
        '    -d \'{"input": {"type": "text", "text": "calculate 6*7"}}\'',
        f'  curl -N {base}/v1/runs/RUN_ID/events -H "Authorization: Bearer $TOKEN"',
    )
    for line in lines:
        console.print(line, markup=False, soft_wrap=True, highlight=False)
