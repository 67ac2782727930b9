"""The command `agentos`."""

import sys

import typer

from agentos.cli import (
    backup,
    config,
    doctor,
    down,
    explain,
    init,
    keys,
    log,
    logs,
    models,
    peers,
    policy,
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

app = typer.Typer(
    name="agentos",
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
    init,
    doctor,
    config,
    log,
    backup,
    usage,
    explain,
):
    group.register(app)


PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(add_help_option=False, context_settings=PASSED_ON)
def state(context: typer.Context) -> None:
    """Print a run, tenant, agent or quota as it was, and who changed it last."""
    from agentos.cli.state import app as command  # noqa: PLC0415 - heavy, and seldom asked for

    typer.main.get_command(command)(context.args, prog_name="agentos state")


@app.command(add_help_option=False, context_settings=PASSED_ON)
def audit(context: typer.Context) -> None:
    """Look at the audit, export it, and prove that it is whole."""
    from agentos.cli.audit import app as group  # noqa: PLC0415 - heavy, and seldom asked for

    typer.main.get_command(group)(context.args, prog_name="agentos audit")


@app.command(add_help_option=False, context_settings=PASSED_ON)
def replay(context: typer.Context) -> None:
    """Decide recorded runs again, and make what follows from the log anew."""
    from agentos.cli.replay import app as group  # noqa: PLC0415 - heavy, and seldom asked for

    typer.main.get_command(group)(context.args, prog_name="agentos replay")


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
