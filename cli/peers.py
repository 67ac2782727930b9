"""`agentos peers …`."""

import os
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from agentos.cli.api_client import WRONG_USAGE, Url, connect, end, object_from, part
from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.cli.tables import show_json, show_lines, show_table

PATH: Final = "/v1/federation/peers"
DOOR: Final = "federation"
app = typer.Typer(no_args_is_help=True)
Stack = Annotated[str, typer.Argument(metavar="STACK", help="The peer's id.")]


def register(main: typer.Typer) -> None:
    """Add the commands of this file."""
    main.add_typer(app, name="peers", help="The nodes that this one works with.")


@app.command("list")
def list_(url: Url = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the peers, whether they answer, and how identities travel to them."""
    answer = connect(url, data_dir, DOOR).call("GET", PATH)
    if as_json:
        show_json(answer)
        return
    names = ("stack_id", "state", "last_seen", "negotiated_version", "region", "security")
    rows = ((*(peer.get(name) for name in names), peer["reason"]) for peer in answer["peers"])
    show_table((*names, "why"), rows)


@app.command()
def status(url: Url = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Say what was copied from each peer, what was filled in after cuts, and what is missing."""
    answer = connect(url, data_dir, DOOR).call("GET", PATH)
    if as_json:
        show_json(answer)
        return
    if answer["security"] == "unsecured":
        typer.echo(f"UNSECURED, no keys or certificates: {', '.join(answer['unsecured_peers'])}")
    typer.echo(f"{answer['stack_id']}: {answer['copies_in_progress']} copies in progress")
    columns = ("peer", "state", "events by", "runs", "open", "events copied", "gaps", "filled in")
    show_table(columns, (_row(peer) for peer in answer["peers"]))
    for peer in answer["peers"]:
        for line in _notes(peer):
            typer.echo(line)


def _row(peer: dict[str, Any]) -> tuple[Any, ...]:
    copies = peer.get("copies") or {}
    return (
        peer["stack_id"],
        peer["state"],
        peer["events_by"],
        copies.get("runs", 0),
        copies.get("open_runs", 0),
        copies.get("events_copied", 0),
        len(copies.get("gaps", ())),
        len(copies.get("filled", ())),
    )


def _notes(peer: dict[str, Any]) -> list[str]:
    copies = peer.get("copies") or {}
    gaps = [
        f"gap: {g['run_id']} at {peer['stack_id']}: events {g['first']}-{g['last']} ({g['reason']})"
        for g in copies.get("gaps", ())
    ]
    filled = [
        f"filled in: {f['run_id']} from {peer['stack_id']}: events {f['first']}-{f['last']} "
        f"by {f['by']}, after a cut of {f['cut_ms'] / 1000:.1f} s, at {f['at']}"
        for f in copies.get("filled", ())
    ]
    return _link_notes(peer) + gaps + filled


def _link_notes(peer: dict[str, Any]) -> list[str]:
    leaf = peer.get("leaf")
    if leaf is None or leaf["state"] != "down":
        return []
    return [f"link down: {peer['stack_id']} since {leaf['since']}: {leaf['reason']}"]


@app.command()
def add(
    entry: Annotated[str, typer.Argument(help="JSON object as in the peers file, or @file.")],
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a peer known, or change one that was added; the peers file goes before it."""
    found = object_from(entry, "ENTRY")
    stack_id = found.get("stack_id")
    if not isinstance(stack_id, str):
        end("ENTRY: it has no stack_id", WRONG_USAGE)
    answer = connect(url, data_dir, DOOR).call("PUT", f"{PATH}/{part(stack_id)}", found)
    if as_json:
        show_json(answer)
    else:
        show_lines(answer["peer"])


@app.command()
def remove(
    stack: Stack, url: Url = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Forget a peer that was added."""
    answer = connect(url, data_dir, DOOR).call("DELETE", f"{PATH}/{part(stack)}")
    if as_json:
        show_json(answer)
    else:
        typer.echo(f"{answer['stack_id']} is no peer any more")


@app.command()
def certs(
    out: Annotated[Path, typer.Option("--out", help="Directory for the authority and the nodes.")],
    stacks: Annotated[list[str], typer.Argument(metavar="STACK…", help="Ids of the nodes.")],
    hosts: Annotated[
        list[str] | None, typer.Option("--host", help="A name or address more; may come again.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long they are valid.")] = 90,
    as_json: AsJson = False,
) -> None:
    """Make a certificate authority (once) and node certificates, for development.

    A certificate's SAN is the node's identity. Keep `ca.key` away from the nodes.
    """
    from agentos.infra.federation.certs import (  # noqa: PLC0415 - heavy
        make_authority,
        make_node_certificate,
    )

    for stack in stacks:
        if not stack.startswith("stk_"):
            end(f"{stack}: a stack's id begins with stk_", WRONG_USAGE)
    try:
        make_authority(out)
        made = {
            stack: make_node_certificate(out, stack, hosts or (), valid=timedelta(days=days))
            for stack in stacks
        }
    except OSError as exc:
        end(f"{out}: {exc}", WRONG_USAGE)
    found = {
        stack: {
            "AGENTOS_FED_CA_CERT": str((out / "ca.pem").absolute()),
            "AGENTOS_FED_CERT": str(certificate.absolute()),
            "AGENTOS_FED_KEY": str(key.absolute()),
        }
        for stack, (certificate, key) in made.items()
    }
    if as_json:
        show_json({"nodes": found})
        return
    for stack, settings in found.items():
        typer.echo(f"# {stack}")
        for name, value in settings.items():
            typer.echo(f"{name}={value}")


@app.command()
def secret(
    file: Annotated[Path, typer.Argument(help="Where it is written; it must not be there yet.")],
    as_json: AsJson = False,
) -> None:
    """Make the secret of a link between two brokers; both nodes need the same file."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(secrets.token_urlsafe(48) + "\n")
    except OSError as exc:
        end(f"{file}: {exc.strerror or exc}", WRONG_USAGE)
    if as_json:
        show_json({"credentials_file": str(file.absolute())})
    else:
        typer.echo(f"written: {file}; in both peers files: nats.credentials_file")


@app.command()
def links(data_dir: DataDir = None) -> None:
    """Print what a NATS server of your own needs for the links. It has their passwords in it."""
    from agentos.infra.federation.links import links_of  # noqa: PLC0415 - heavy
    from agentos.infra.federation.node import load_peers  # noqa: PLC0415 - heavy
    from agentos.infra.federation.peers_file import PeersFileError  # noqa: PLC0415 - heavy
    from agentos.infra.nats_links import (  # noqa: PLC0415 - heavy
        domain_line,
        leafnodes_block,
        link_accounts,
    )

    settings = node_settings(data_dir)
    try:
        found = links_of(settings, *load_peers(settings))
    except PeersFileError as exc:
        end(str(exc), WRONG_USAGE)
    if not found.links:
        end("no peer of the peers file has nats", WRONG_USAGE)
    typer.echo(f"# in the jetstream block:\n{domain_line(found).rstrip()}")
    typer.echo(f"# beside it:\n{leafnodes_block(found).rstrip()}")
    typer.echo(f"# in the accounts block:\n{link_accounts(found).rstrip()}")


@app.command()
def rotate(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Sign with a new key from now on; the one before is still published."""
    from agentos.infra.federation.keys import FOLDER, KeyRing  # noqa: PLC0415 - heavy

    settings = node_settings(data_dir)
    ring = KeyRing(settings.data_dir / FOLDER)
    kid = ring.rotate()
    published = [key["kid"] for key in ring.key_set()["keys"]]
    if as_json:
        show_json({"kid": kid, "published": published})
    else:
        typer.echo(f"{kid} signs from now on; {len(published)} keys are published")
