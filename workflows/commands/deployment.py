"""Commands of the registry and the scoring server: register, promote, rollback, history, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shutterless.workflows.commands.application import command
from shutterless.workflows.commands.console import DONE, SOME_FAILED, choose_tracking, make_progress, split_set
from shutterless.workflows.commands.guide import suggest
from shutterless.workflows.commands.options import MODEL_HELP, Config, Debug, Instrument, Quiet, Set, TrackingOption

RegisteredName = Annotated[str, typer.Argument(help="Name in the registry.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why; kept in the history.", show_default=False)]


@command
def register(
    model: Annotated[str, typer.Argument(help="Folder, run id, models:/NAME@ALIAS or bundled.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name in the registry.")] = "shutterless",
    alias: Annotated[
        str | None,
        typer.Option(
            help="Alias for this version, default: none; a second champion needs `promote`.", show_default=False
        ),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(help="Output of `evaluate` to attach to the version; default: none.", show_default=False),
    ] = None,
    trained_on: Annotated[
        str, typer.Option(help="For the card: the frames of its training, simulated or real.", show_default=False)
    ] = "",
    reason: Reason = "",
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Put a model into the registry with its card, so that it can be used by name."""
    uri = choose_tracking(tracking)
    from shutterless.workflows.registry.register import register_version as register_checked
    from shutterless.workflows.tracking.tracking import open_tracking

    registered = register_checked(
        open_tracking(uri), model, name, alias, evaluation=evaluation, trained_on=trained_on, reason=reason
    )
    typer.echo(f"{registered.reference} is version {registered.version} of {name}")
    suggest(("search", "FILES", "--model", registered.reference), ("promote", name, registered.version), quiet=quiet)
    return DONE


@command
def promote(
    name: RegisteredName,
    version: Annotated[
        str, typer.Argument(help="Version, alias or run id that is to be promoted.", show_default=False)
    ],
    to: Annotated[str, typer.Option(help="Alias that it gets.")] = "champion",
    store: Annotated[
        Path | None, typer.Option(help="Frozen validation store; default: that of the policy.", show_default=False)
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Its truth table; default: the policy's, else beside it.", show_default=False)
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="Gates: a TOML file that holds only what it changes; default: registry.toml.", show_default=False
        ),
    ] = None,
    reason: Reason = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure the gates and change nothing.")] = False,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Give a version an alias if it passes the gates: floors, ceilings, and no worse than the champion."""
    uri = choose_tracking(tracking)
    from shutterless.workflows.registry.policy import load_policy
    from shutterless.workflows.registry.promotion import promote_version as promote_checked
    from shutterless.workflows.tracking.tracking import open_tracking

    promotion = promote_checked(
        open_tracking(uri), name, version, policy=load_policy(policy), alias=to, store=store, truth=truth,
        reason=reason, dry_run=dry_run, progress=make_progress(quiet),
    )  # fmt: skip
    typer.echo(promotion.text())
    suggest(("history", name), ("search", "FILES", "--model", f"models:/{name}@{to}"), quiet=quiet)
    return DONE if promotion.judgement.passed and (dry_run or promotion.promoted) else SOME_FAILED


@command
def rollback(
    name: RegisteredName,
    to: Annotated[
        str | None, typer.Option(help="Version to go back to; default: the champion before.", show_default=False)
    ] = None,
    alias: Annotated[str, typer.Option(help="Alias that is moved back.")] = "champion",
    reason: Reason = "",
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Point the champion's alias back at the previous version; repeat to go further back."""
    uri = choose_tracking(tracking)
    from shutterless.workflows.registry.promotion import roll_back
    from shutterless.workflows.tracking.tracking import open_tracking

    entry = roll_back(open_tracking(uri), name, alias=alias, version=to, reason=reason)
    typer.echo(f"{alias} of {name} is version {entry.new} again, after {entry.old or 'none'}")
    suggest(("history", name), quiet=quiet)
    return DONE


@command
def history(
    name: RegisteredName,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show every change of a model's aliases: who, when, old and new version, reason, and the gates' measurements."""
    uri = choose_tracking(tracking)
    from shutterless.workflows.registry.promotion import read_registry_history
    from shutterless.workflows.tracking.tracking import open_tracking

    found = read_registry_history(open_tracking(uri), name)
    typer.echo(found.text())
    suggest(("promote", name, "VERSION"), ("rollback", name), quiet=quiet)
    return SOME_FAILED if found.notes else DONE


@command
def serve(
    model: Annotated[
        str, typer.Option(help=f"{MODEL_HELP} An alias is followed when it moves.")
    ] = "bundled-transformer",
    host: Annotated[
        str, typer.Option(help="Address to listen at; anything but loopback is open to others.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.")] = 8000,
    allow: Annotated[
        list[Path] | None,
        typer.Option(help="Folder whose files may be searched; repeatable. Default: none.", show_default=False),
    ] = None,
    instrument: Instrument = None,
    false_alarms_per_hour: Annotated[
        float | None,
        typer.Option(help="False alarms per amplifier-hour if a request gives none; default: 50.", show_default=False),
    ] = None,
    searches: Annotated[int, typer.Option(help="Searches at the same time; more are sent away.")] = 1,
    max_megabytes: Annotated[float, typer.Option(help="Largest body of a request.")] = 64,
    max_strips: Annotated[int, typer.Option(help="Most strips of a request.")] = 4096,
    max_rows: Annotated[int, typer.Option(help="Most rows of all files of a request.")] = 500_000,
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = 600,
    refresh: Annotated[float, typer.Option(help="Seconds between two looks at where the alias points.")] = 10,
    config: Config = None,
    set_: Set = None,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Answer requests over HTTP: strips in, scores out; FITS files in, candidates out."""
    from shutterless.workflows.settings.settings import load_settings

    overrides, header = split_set(set_ or ())
    if false_alarms_per_hour is not None:
        overrides.append(f"search.false_alarms_per_hour={false_alarms_per_hour}")
    settings = load_settings(config, overrides)
    uri = choose_tracking(tracking)
    from shutterless.workflows.pages.loopback import Address
    from shutterless.workflows.serving.limits import Limits, allow_folders
    from shutterless.workflows.serving.serve import serve_model
    from shutterless.workflows.serving.tasks import SearchOptions
    from shutterless.workflows.tracking.tracking import open_tracking

    limits = Limits(allow_folders(allow or ()), int(max_megabytes * 1e6), max_strips, max_rows, timeout)
    options = SearchOptions(
        settings.search, instrument or settings.ingest.instrument, {**settings.ingest.header, **header}
    )
    serve_model(
        model, lambda: open_tracking(uri), Address(host, port), limits, options,
        n_searches=searches, refresh_s=refresh, quiet=quiet,
    )  # fmt: skip
    return DONE
