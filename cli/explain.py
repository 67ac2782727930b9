"""`agentos explain`: which rule, price, budget, route and redaction a model call met, and why."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from agentos.cli.api_client import Url, connect
from agentos.cli.options import AsJson, DataDir
from agentos.cli.tables import show_json

RequestId = Annotated[str, typer.Argument(metavar="REQUEST_ID", help="The call's request id.")]
WIDTH: Final = 10
STATUS: Final = {
    "ok": "answered",
    "error": "failed at the backend",
    "blocked": "blocked by policy",
    "refused": "refused before it began",
    "interrupted": "broke off on the way",
}


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(explain)


def explain(
    request_id: RequestId, url: Url = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Print what became of one model call: no content, only what was decided and why."""
    # In the query any id comes through; in a path some servers change `//`, `.` or `%2F`.
    answer = connect(url, data_dir).call("GET", "/v1/model-calls", request_id=request_id)
    if as_json:
        show_json(answer)
        return
    for name, text in explained(answer["model_call"]):
        typer.echo(f"{name:<{WIDTH}}{text}")


def explained(call: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a name and a line for each thing that is known."""
    yield "call", f"{call['request_id']}, {STATUS[call['status']]}, {call['ended_at']}"
    yield "asked", f"{call['operation']} of {call['model_ref']} by {call['principal_id']}"
    if call.get("agent_id"):
        yield "", f"for {call['agent_id']}, {call.get('run_id', 'no run')}"
    if (error := call.get("error")) is not None:
        yield "error", f"{error['code']}: {error['message']}"
    yield from _policy(call.get("policy"))
    yield from _route(call)
    usage = call["usage"]
    streamed = ", streamed" if call["streamed"] else ""
    tokens = f"{usage['input_tokens']} in, {usage['output_tokens']} out"
    yield "usage", f"{tokens}, {call['latency_ms']} ms{streamed}"
    yield from _price(call)
    yield from _budget(call.get("budget"))
    if call.get("correlation_id"):
        yield "trace", f"correlation {call['correlation_id']}"


def _policy(policy: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    if policy is None:
        yield "policy", "not asked"
        return
    yield "policy", policy["decision"]
    for reason in policy["reasons"]:
        yield "", f"because {reason}"
    for direction, found in policy["findings"].items():
        counts = ", ".join(f"{n} {kind}" for kind, n in found.items())
        yield "", f"found in {direction}: {counts or 'nothing'}"
    for span in policy["redactions"]:
        yield "redacted", f"{span['type']} in {span['field']}, {span['start']} to {span['end']}"


def _route(call: dict[str, Any]) -> Iterator[tuple[str, str]]:
    route = call.get("route")
    if route is None:
        yield "route", "none was taken"
        return
    fallback = ", a fallback" if route["fallback_used"] else ""
    taken = f"{call['backend']}/{call['model']}" if call["model"] else "no backend"
    yield "route", f"{route['name']} (catalog {route['catalog_version']}) to {taken}{fallback}"
    if route.get("canary"):
        yield "", f"as canary: {route['canary']}"
    for number, tried in enumerate(route["attempts"], start=1):
        where = f"{tried['backend']}/{tried['model']}"
        yield "", f"attempt {number}: {where}, {tried['outcome']}, {tried['latency_ms']} ms"


def _price(call: dict[str, Any]) -> Iterator[tuple[str, str]]:
    cost, price = f"${call['cost_usd']:.6f}", call.get("price")
    if price is None:
        yield "cost", f"{cost}, the model has no price"
        return
    rates = f"${price['input_per_million']} in, ${price['output_per_million']} out"
    yield "cost", f"{cost} at {rates} a million tokens (catalog {price['catalog_version']})"


def _budget(budget: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    if not budget or not budget["reserved"]:
        yield "budget", "the tenant has none"
        return
    for unit, reserved in budget["reserved"].items():
        yield "budget", f"{unit}: {reserved} reserved, {budget['settled'].get(unit, 0)} counted"
