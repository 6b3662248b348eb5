"""Commands of the registry: register."""

from __future__ import annotations

from typing import Annotated

import typer

from shutterless.workflows.commands.application import command
from shutterless.workflows.console import DONE, choose_tracking
from shutterless.workflows.options import Debug, Quiet, TrackingOption


@command
def register(
    model: Annotated[str, typer.Argument(help="Folder, run id, models:/NAME@ALIAS or bundled.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name in the registry.")] = "shutterless",
    alias: Annotated[str | None, typer.Option(help="Alias for this version.", show_default=False)] = None,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Put a model into the registry, so that it can be asked for by name."""
    uri = choose_tracking(tracking)
    from shutterless.workflows.registry import register as register_checked
    from shutterless.workflows.tracking import open_tracking

    registered = register_checked(open_tracking(uri), model, name, alias)
    typer.echo(f"{registered.reference} is version {registered.version} of {name}")
    return DONE
