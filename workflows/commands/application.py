"""Define the application of the command line, and register commands with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from shutterless.workflows.commands.console import exit_with_code
from shutterless.workflows.commands.guide import describe_examples
from shutterless.workflows.commands.options import DefaultOf

ORDER = (
    "run", "simulate", "inject", "check", "ingest", "pretrain", "train", "tune", "evaluate", "compare", "describe",
    "search", "watch", "compare-searches", "recurrences", "limits", "export", "lightcurve", "report", "vet",
    "boxes label", "boxes train", "boxes find", "register", "promote", "rollback", "history", "serve",
)  # fmt: skip
COMMAND_GROUPS = ("boxes",)  # first words of commands of two words


class _FlowOrder(TyperGroup):
    """Lists commands in the order of their use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands as ``--help`` shows them."""
        return sorted(self.commands, key=ORDER.index)

    def resolve_command(self, ctx: Any, args: Any) -> Any:
        """Find the command that the first word names, or the first two."""
        if len(args) > 1 and args[0] in COMMAND_GROUPS:
            args = [" ".join(args[:2]), *args[2:]]
        return super().resolve_command(ctx, args)

    def main(  # type: ignore[override]
        self, args: Any = None, prog_name: str | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run a command; what is wrong with its arguments is said in one line, with where to read more."""
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
        except typer.Abort:
            code = 1
        except Exception as error:  # typer brings its own classes or those of click, by its version
            if not hasattr(error, "format_message"):
                raise
            code = _explain_usage(error)
        sys.exit(code if isinstance(code, int) else 0)


def _explain_usage(error: Any) -> int:
    """Say in one line what is wrong with the arguments; without any the help is shown."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    context = getattr(error, "ctx", None)
    where = f" (see {context.command_path} --help)" if context is not None else ""
    typer.echo(f"error: {' '.join(error.format_message().split())}{where}", err=True)
    return int(error.exit_code)


class LateDefaults(TyperCommand):
    """Looks up the defaults that stand elsewhere when the command, or its help, is asked for."""

    def get_params(self, ctx: Any) -> Any:
        """Arguments and options with their defaults."""
        for parameter in self.params:
            if isinstance(parameter.default, DefaultOf):
                parameter.default = parameter.default()
        return super().get_params(ctx)


app = typer.Typer(
    name="shutterless",
    cls=_FlowOrder,
    help="Find sub-second events in continuous-readout astronomical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help imports less
)


def command(function: Callable[..., int]) -> Callable[..., None]:
    """Register a command that returns its exit code; errors for users are printed in one line."""
    guarded = exit_with_code(function)
    first, *others = function.__name__.split("_")
    name = f"{first} {'-'.join(others)}" if first in COMMAND_GROUPS else "-".join([first, *others])
    app.command(name, cls=LateDefaults, epilog=describe_examples(name))(guarded)
    return guarded


def show_jobs(workers: int | None, scheduler: str | None, no_dask: bool, slurm: Path | None, out: Path) -> int | None:
    """Check the cluster options, print the script that ``--slurm`` would submit, and return the number of workers."""
    from shutterless.workflows.execution.cluster import check_options, describe_jobs

    check_options(workers, scheduler, no_dask, slurm)
    if slurm is None:
        return workers
    script, n_workers = describe_jobs(slurm, out)
    typer.echo(script)
    return n_workers


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"shutterless {installed('shutterless')}")
        raise typer.Exit
