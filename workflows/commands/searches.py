"""Commands that search frames, say what was found, export it and let people label it: search to vet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shutterless.workflows.commands.application import command, show_jobs
from shutterless.workflows.commands.console import (
    DONE,
    SOME_FAILED,
    choose_tracking,
    command_line,
    conclude,
    describe_plan,
    make_progress,
    split_set,
)
from shutterless.workflows.commands.guide import suggest
from shutterless.workflows.commands.options import (
    MODEL_HELP,
    AsStack,
    Catalogue,
    Config,
    Debug,
    DryRun,
    FalseAlarms,
    Files,
    Instrument,
    NoDask,
    Quiet,
    Resume,
    Scheduler,
    Set,
    Slurm,
    TrackingOption,
    Workers,
)

if TYPE_CHECKING:
    import pandas as pd

    from shutterless.workflows.execution.cluster import Executor
    from shutterless.workflows.searching.search import SearchJob
    from shutterless.workflows.settings.settings import SearchSettings


@command
def search(
    files: Files,
    model: Annotated[
        str | None,
        typer.Option(help=f"{MODEL_HELP} Default: bundled for frames, template-bank for cubes.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the candidates.")] = Path("runs/search"),
    instrument: Instrument = None,
    stack: AsStack = False,
    false_alarms_per_hour: FalseAlarms = None,
    catalogue: Catalogue = None,
    resume: Resume = False,
    config: Config = None,
    set_: Set = None,
    dry_run: DryRun = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    no_dask: NoDask = False,
    slurm: Slurm = None,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Search frames for events and write the candidates."""
    from shutterless.workflows.execution.cluster import open_executor
    from shutterless.workflows.frames.ingest import SEARCH_PIXELS_PER_SECOND

    settings, supplied, instrument = _search_settings(config, set_, false_alarms_per_hour, instrument)
    if dry_run:
        workers = show_jobs(workers, scheduler, no_dask, slurm, out)
        wanted = f"candidates.parquet and candidates.ecsv to {out}"
        return describe_plan(
            files, instrument, supplied, workers, no_dask, SEARCH_PIXELS_PER_SECOND, lambda _: wanted, stack
        )
    choose_tracking(tracking)
    from shutterless.workflows.searching.search import search_files

    progress = make_progress(quiet)
    with open_executor(
        workers, scheduler, no_dask, slurm, out=out, when_worth=True, announce=progress.write_line
    ) as executor:
        result = search_files(
            files, reference=model, out=out, settings=settings, catalogue=catalogue, instrument=instrument,
            supplied=supplied, executor=executor, resume=resume, stack=stack, progress=progress,
            command=command_line(),
        )  # fmt: skip
    progress.write_line(result.rates.describe(len(result.candidates)))
    for line in filter(None, (*result.set_aside, result.positions)):
        typer.echo(line)
    return conclude(progress, result, f"{len(result.candidates)} candidates in {out}", ("report", out))


@command
def watch(
    directory: Annotated[Path, typer.Argument(help="Folder in which frames arrive.", show_default=False)],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "bundled",
    out: Annotated[Path, typer.Option(help="Folder for the candidates.")] = Path("runs/watch"),
    instrument: Instrument = None,
    false_alarms_per_hour: FalseAlarms = None,
    catalogue: Catalogue = None,
    alerts: Annotated[
        Path | None,
        typer.Option(help="Folder for alert packets (Avro), each written once. Default: none.", show_default=False),
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks at the folder.")] = 2.0,
    settle: Annotated[float, typer.Option(help="Seconds without change after which a file is complete.")] = 5.0,
    stop_after: Annotated[
        float | None,
        typer.Option(help="Stop when no file has arrived for this many seconds; default: never.", show_default=False),
    ] = None,
    config: Config = None,
    set_: Set = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    no_dask: NoDask = False,
    slurm: Slurm = None,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Search frames as they arrive, and print the delay behind the sky; a restart resumes."""
    from shutterless.workflows.execution.cluster import open_executor

    settings, supplied, instrument = _search_settings(config, set_, false_alarms_per_hour, instrument)
    choose_tracking(tracking)
    from shutterless.workflows.searching.search import SearchJob
    from shutterless.workflows.searching.watch import Watcher, watch_folder

    progress = make_progress(quiet)
    job = SearchJob.prepare(
        model, out, settings, catalogue=catalogue, instrument=instrument, supplied=supplied, command=command_line()
    )
    with open_executor(workers, scheduler, no_dask, slurm, out=out, announce=progress.write_line) as executor:
        announce = None if alerts is None else _alert_folder(alerts, job, executor)
        watcher = Watcher(directory, job, executor, settle_s=settle, announce=announce)
        n_failed = watch_folder(watcher, progress.write_line, every_s=every, stop_after_s=stop_after)
    typer.echo(f"candidates: {out}")
    suggest(("report", out), quiet=quiet)
    return SOME_FAILED if n_failed else DONE


def _alert_folder(folder: Path, job: SearchJob, executor: Executor) -> Callable[[pd.DataFrame], int]:
    """Writer of the alerts of a watch."""
    from shutterless.workflows.export.alert_folder import AlertFolder

    return AlertFolder(folder, job, executor).update


@command
def compare_searches(
    first: Annotated[Path, typer.Argument(help="Folder of a search.")],
    second: Annotated[Path, typer.Argument(help="Folder of another search of the same frames.")],
    out: Annotated[Path, typer.Option(help="Folder for the table.")] = Path("runs/searches"),
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Compare two searches of the same frames: what only one of them found, and why the other did not."""
    from shutterless.workflows.comparison.searches import TABLE, compare_found

    typer.echo(compare_found(first, second, out).text())
    typer.echo(f"table: {out / TABLE}")
    suggest(("report", first), ("report", second), quiet=quiet)
    return DONE


@command
def limits(
    searches: Annotated[list[Path], typer.Argument(help="Folders of searches of different frames.")],
    evaluation: Annotated[
        Path, typer.Option(help="Folder of `shutterless evaluate`, of frames as deep.", show_default=False)
    ],
    detector: Annotated[
        str | None,
        typer.Option(help="Its name in the evaluation. Default: the model of each search.", show_default=False),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Kind of event whose completeness counts; repeatable. Default: all that brighten."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables, figure and page.")] = Path("runs/limits"),
    config: Config = None,
    set_: Set = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Compute rates of events per square degree and day, or upper limits, by duration and magnitude."""
    from shutterless.workflows.settings.settings import load_settings

    settings = load_settings(config, set_ or ()).limits
    from shutterless.workflows.rates.limits import measure_limits, write_limits
    from shutterless.workflows.rates.page import write_limits_page

    found = measure_limits(searches, evaluation, settings, detector=detector, kinds=kind or ())
    write_limits(found, out)
    typer.echo(found.text())
    typer.echo(f"limits: {write_limits_page(found, searches, evaluation, out)}")
    suggest("open it in a browser", quiet=quiet)
    return DONE


@command
def recurrences(
    searches: Annotated[list[Path], typer.Argument(help="Folders of searches of different frames.")],
    out: Annotated[Path, typer.Option(help="Folder for the table.")] = Path("runs/recurrences"),
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """List the stars with several candidates, in one search or in several nights, with the times of each."""
    from shutterless.workflows.rates.recurrence import RECURRENCES, find_recurrences

    typer.echo(find_recurrences(searches, out).text())
    typer.echo(f"table: {out / RECURRENCES}")
    suggest(("report", searches[0]), quiet=quiet)
    return DONE


@command
def export(
    directory: Annotated[Path, typer.Argument(help="Folder of a search.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the files; default: export in that of the search.", show_default=False),
    ] = None,
    format_: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="votable, regions (DS9), csv, finder (page with patches of sky) or alerts (Avro); repeatable. "
            "Default: the first three.",
            show_default=False,
        ),
    ] = None,
    candidate: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Candidate to export; repeatable. Default: all.")
    ] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option(help="Stars of the finder page (ra, dec, mag); default: those of the search.", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Candidates on the finder page.")] = 12,
    workers: Workers = None,
    no_dask: NoDask = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Write the candidates of a search for TOPCAT, DS9, brokers and people."""
    from shutterless.workflows.execution.cluster import open_executor
    from shutterless.workflows.export.export import USUAL_FORMATS, export_search

    progress = make_progress(quiet)
    with open_executor(workers, no_dask=no_dask, when_worth=True, announce=progress.write_line) as executor:
        lines = export_search(
            directory, out or directory / "export", format_ or USUAL_FORMATS, executor, names=candidate or (),
            catalogue=catalogue, top=top,
        )  # fmt: skip
    for line in lines:
        typer.echo(line)
    return DONE


def _search_settings(
    config: Path | None, set_: list[str] | None, false_alarms_per_hour: float | None, instrument: str | None
) -> tuple[SearchSettings, dict[str, str], str | None]:
    """Settings of a search, header values given by the user, and the instrument."""
    from shutterless.workflows.settings.settings import load_settings

    overrides, header = split_set(set_ or ())
    if false_alarms_per_hour is not None:
        overrides.append(f"search.false_alarms_per_hour={false_alarms_per_hour}")
    settings = load_settings(config, overrides)
    return settings.search, {**settings.ingest.header, **header}, instrument or settings.ingest.instrument


@command
def report(
    directory: Annotated[
        Path, typer.Argument(help="Folder of a run, search, evaluation, sweep or store.", show_default=False)
    ],
    entry: Annotated[
        list[str] | None,
        typer.Option(help="Amplifier of a store to show pictures of; repeatable. Default: all, or the 16 worst."),
    ] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Candidate, or vetoed trigger, to picture beside the first; repeatable."),
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Groups of candidates to picture.")] = 12,
    nights: Annotated[
        bool, typer.Option("--nights", help="Also write a page of each night with all pictures.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Write a self-contained HTML report: of a run, a search, an evaluation, a sweep, or a store's amplifiers."""
    from shutterless.workflows.pages.run_folder import Pictured
    from shutterless.workflows.report.report import write_report

    if nights:
        from shutterless.workflows.report.report import write_night_reports

        for page in write_night_reports(directory):
            typer.echo(f"night: {page}")
    typer.echo(f"report: {write_report(directory, entry or (), Pictured(top, tuple(candidate or ())))}")
    suggest("open it in a browser", quiet=quiet)
    return DONE


@command
def vet(
    directory: Annotated[Path, typer.Argument(help="Folder of a search.", show_default=False)],
    who: Annotated[
        str | None, typer.Option(help="Your name in the labels; default: that of your account.", show_default=False)
    ] = None,
    blind: Annotated[
        int, typer.Option(min=0, help="Number of injected events to mix in; they measure you, and no label is learned.")
    ] = 0,
    only: Annotated[
        Path | None,
        typer.Option(help="CSV file whose column candidate_id names those to vet; default: all.", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the page on this machine; 0 takes a free one.")] = 0,
    summary: Annotated[bool, typer.Option("--summary", help="Print what every vetter did, and end.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Label the candidates of a search in a browser: event, artefact or unsure, by keys."""
    if summary:
        from shutterless.workflows.vetting.summary import describe_vetters

        typer.echo(describe_vetters(directory))
        suggest(("train", "STORE", "--labels", directory / "vetting" / "labels.csv"), quiet=quiet)
        return DONE
    from shutterless.workflows.vetting.vet import vet_search

    vet_search(
        directory, announce=typer.echo, who=who, port=port, n_blind=blind, only=only, progress=make_progress(quiet)
    )
    suggest(("vet", directory, "--summary"), quiet=quiet)
    return DONE
