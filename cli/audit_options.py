"""The options that say which audit records are meant."""

from typing import Annotated

import typer

OfTenant = Annotated[str | None, typer.Option("--tenant", help="Whose chain.")]
Action = Annotated[str | None, typer.Option("--action", help="Only these, such as keys.issue.")]
OfPrincipal = Annotated[str | None, typer.Option("--principal", help="Only of this principal.")]
Outcome = Annotated[
    str | None, typer.Option("--outcome", help="Only these: allowed, denied or error.")
]
OfRun = Annotated[str | None, typer.Option("--run", help="Only of this run.")]
