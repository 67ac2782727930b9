"""The command `agentos`."""

import sys
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

from agentos.cli import (
    backup,
    config,
    doctor,
    down,
    erase,
    explain,
    init,
    keys,
    log,
    logs,
    models,
    peers,
    policy,
    retention,
    run,
    status,
    tenants,
    token,
    up,
    usage,
)
from agentos.cli.pasteable import pasteable
from agentos.infra.node.control import NoSupervisorError
from agentos.infra.node.errors import NodeError
from agentos.infra.settings import NodeNotStartedError, SettingsError

DONE, FAILED, WRONG_USAGE, UNREACHABLE = 0, 1, 2, 3

HEAVY: Final = frozenset({"audit", "replay", "state"})
"""Commands whose modules are heavy, and seldom asked for: what stands here is only their help."""


class Commands(TyperGroup):
    """The commands, the heavy ones loaded once they are called or completed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name, command and other words of what was typed."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in HEAVY:
            module = import_module(f"agentos.cli.{name}")
            command = typer.main.get_command(module.app)
        return name, command, rest


app = typer.Typer(
    name="agentos",
    cls=Commands,
    help="A self-hosted, multi-tenant control plane for AI agents on an append-only log.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for group in (
    up,
    down,
    status,
    logs,
    token,
    tenants,
    models,
    keys,
    peers,
    policy,
    run,
    init,
    doctor,
    config,
    log,
    backup,
    retention,
    usage,
    explain,
    erase,
):
    group.register(app)


@app.command()
def state() -> None:
    """Print a run, tenant, agent or quota as it was, and who changed it last."""


@app.command()
def audit() -> None:
    """Look at the audit, export it, and prove that it is whole."""


@app.command()
def replay() -> None:
    """Decide recorded runs again, and make what follows from the log anew."""


def main() -> None:
    """Run the command line; exit 0 done, 1 failed, 2 wrong usage, 3 something is unreachable."""
    try:
        app()
    except (NodeNotStartedError, NoSupervisorError) as exc:
        _end(str(exc), UNREACHABLE)
    except SettingsError as exc:
        _end("\n".join(f"error: {problem}" for problem in exc.problems), WRONG_USAGE)
    except NodeError as exc:
        _end(f"error: {exc}\nnext: {exc.next_step}", FAILED)
    except KeyboardInterrupt:
        sys.exit(130)


def _end(text: str, code: int) -> None:
    typer.echo(pasteable(text), err=True)
    sys.exit(code)
