"""Commands. Each one parses, calls one function of `shutterless.workflows` and prints its result.

``shutterless --help`` must answer at once, so nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shutterless.workflows.console import (
    DONE,
    SOME_FAILED,
    choose_tracking,
    describe_plan,
    exit_with_code,
    failure_lines,
    format_size,
    list_failures,
    make_progress,
    note_reading,
    parse_numbers,
    parse_range,
    split_set,
)
from shutterless.workflows.options import (
    MODEL_HELP,
    Catalogue,
    Config,
    Debug,
    DryRun,
    Family,
    Files,
    Instrument,
    NoDask,
    Quiet,
    Resume,
    Scheduler,
    Set,
    Slurm,
    Store,
    TrackingOption,
    Workers,
)

if TYPE_CHECKING:
    from shutterless.workflows.settings import SearchSettings

app = typer.Typer(
    name="shutterless",
    help="Find sub-second events in continuous-readout astronomical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: nothing more to import
)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="shutterless")


def command(function: Callable[..., int]) -> Callable[..., None]:
    """Register a command whose return value is the exit code and whose user errors are one line."""
    guarded = exit_with_code(function)
    app.command()(guarded)
    return guarded


def show_jobs(workers: int | None, scheduler: str | None, no_dask: bool, slurm: Path | None) -> int | None:
    """Check the cluster options, print the script that ``--slurm`` would submit, and return how many workers it is."""
    from shutterless.workflows.cluster import check_options, describe_jobs

    check_options(workers, scheduler, no_dask, slurm)
    if slurm is None:
        return workers
    script, n_workers = describe_jobs(slurm)
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


@command
def run(
    config: Config = None,
    out: Annotated[Path, typer.Option(help="Folder for everything the run makes.")] = Path("runs/quickstart"),
    set_: Set = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    no_dask: NoDask = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Run the whole quickstart: simulate, ingest, train, evaluate, compare, register, search, report."""
    from shutterless.workflows.settings import load_settings

    settings = load_settings(config, set_ or ())  # a misspelt key is found before anything heavy is imported
    from shutterless.workflows.quickstart import run_quickstart

    progress = make_progress(quiet)
    report = run_quickstart(settings, out, workers=workers, scheduler=scheduler, no_dask=no_dask, progress=progress)
    typer.echo(f"report: {report}")
    return DONE


@command
def simulate(
    out: Annotated[Path, typer.Option(help="Folder for the frames and truth tables.", show_default=False)],
    instrument: Annotated[str, typer.Option(help="Profile name or TOML file.")] = "ztf",
    ccds: Annotated[str, typer.Option(help="CCD numbers, such as 1,3 or 1-4.")] = "1",
    rows: Annotated[int, typer.Option(help="Rows of one file.")] = 10_000,
    files: Annotated[int, typer.Option(help="Consecutive files of each CCD.")] = 1,
    events: Annotated[int, typer.Option(help="Events in each amplifier of each file.")] = 10,
    artefacts: Annotated[bool, typer.Option(help="Cosmic rays and electronic pickup.")] = True,
    atmosphere: Annotated[bool, typer.Option(help="Scintillation, motion, focus, thin cloud.")] = False,
    detector: Annotated[bool, typer.Option(help="Pocket effect, bad columns, dropped rows.")] = False,
    sky_lights: Annotated[bool, typer.Option(help="Satellites, aircraft, meteors, ghosts.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same frames.")] = 1,
    sequence: Annotated[str, typer.Option(help="Name of the sequence; begins the file names.")] = "simulated",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change another value of the scene (row_rate_hz=100); repeatable."
        ),
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    no_dask: NoDask = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Simulate continuous-readout frames with events of known truth."""
    from shutterless.workflows.cluster import open_executor
    from shutterless.workflows.settings import load_scene
    from shutterless.workflows.simulate import build_scene, simulate_scene

    given = {"instrument": instrument, "ccds": parse_numbers(ccds), "rows": rows, "files": files, "events": events}
    given |= {"artefacts": artefacts, "seed": seed, "sequence": sequence}
    given |= {"atmosphere": atmosphere, "detector": detector, "sky_lights": sky_lights}
    scene = build_scene(load_scene(given, set_ or ()))
    with open_executor(workers, scheduler, no_dask) as executor:
        result = simulate_scene(scene, out, executor=executor, progress=make_progress(quiet))
    typer.echo(f"{len(result.files)} files and {result.truth.name} in {out}")
    return list_failures(result.failures)


@command
def inject(
    files: Files,
    out: Annotated[Path, typer.Option(help="Folder for the copies of the frames.", show_default=False)],
    events: Annotated[int, typer.Option(help="Events in each amplifier of each file.")] = 10,
    kinds: Annotated[str, typer.Option(help="Kinds of events, equally frequent.")] = "flare,burst,occultation,glint",
    rho: Annotated[str, typer.Option(help="Smallest and largest optimal S/N.")] = "5,20",
    partial: Annotated[float, typer.Option(help="Share of events that an end of the file cuts.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Same seed, same events.")] = 1,
    hide: Annotated[
        Path | None,
        typer.Option(help="Folder for the truth tables, for a blind test; default: --out.", show_default=False),
    ] = None,
    instrument: Instrument = None,
    set_: Set = None,
    dry_run: DryRun = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    no_dask: NoDask = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Write copies of frames with events in them and their truth, for a blind test of any detector."""
    from shutterless.workflows.cluster import open_executor
    from shutterless.workflows.inject import INJECT_PIXELS_PER_SECOND, build_injection, inject_files
    from shutterless.workflows.settings import load_settings

    wanted = build_injection([kind.strip() for kind in kinds.split(",")], parse_range(rho, "--rho"), partial)
    overrides, header = split_set(set_ or ())
    settings = load_settings(None, overrides).ingest
    instrument, supplied = instrument or settings.instrument, {**settings.header, **header}
    if dry_run:
        written = f"as many frames to {out}, truth.parquet and stars.parquet to {hide or out}"
        return describe_plan(files, instrument, supplied, workers, INJECT_PIXELS_PER_SECOND, lambda _: written)
    progress = make_progress(quiet)
    with open_executor(workers, scheduler, no_dask) as executor:
        result = inject_files(
            files, out, settings=wanted, events=events, seed=seed, hide=hide, instrument=instrument, supplied=supplied,
            executor=executor, progress=progress,
        )  # fmt: skip
    note_reading(progress, result.instruments, result.warnings)
    typer.echo(f"{result.n_events} events in {len(result.files)} files in {out}; their truth is {result.truth}")
    return list_failures(failure_lines(result.failures))


@command
def ingest(
    files: Files,
    out: Annotated[Path, typer.Option(help="Folder of the store.", show_default=False)],
    instrument: Instrument = None,
    resume: Resume = False,
    set_: Set = None,
    dry_run: DryRun = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    no_dask: NoDask = False,
    slurm: Slurm = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Calibrate frames into a store."""
    from shutterless.workflows.cluster import open_executor
    from shutterless.workflows.ingest import INGEST_PIXELS_PER_SECOND, estimate_store_bytes, ingest_files
    from shutterless.workflows.settings import load_settings

    overrides, header = split_set(set_ or ())
    settings = load_settings(None, overrides).ingest
    supplied = {**settings.header, **header}
    instrument = instrument or settings.instrument
    progress = make_progress(quiet)
    if dry_run:
        workers = show_jobs(workers, scheduler, no_dask, slurm)
        return describe_plan(
            files, instrument, supplied, workers, INGEST_PIXELS_PER_SECOND,
            lambda n_pixels: f"about {format_size(estimate_store_bytes(n_pixels))} to {out}",
        )  # fmt: skip
    with open_executor(workers, scheduler, no_dask, slurm) as executor:
        result = ingest_files(
            files, out, instrument=instrument, supplied=supplied, resume=resume, executor=executor, progress=progress
        )
    note_reading(progress, result.instruments, result.warnings)
    typer.echo(f"{len(result.manifest)} amplifiers in {out}")
    return list_failures(failure_lines(result.failures))


@command
def train(
    store: Store,
    model: Annotated[Family, typer.Option(help="Family of the model.")] = Family.TRANSFORMER,
    config: Config = None,
    init: Annotated[str | None, typer.Option(help=f"Start from this model. {MODEL_HELP}", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the model; default: runs/MODEL.", show_default=False)
    ] = None,
    set_: Set = None,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Train one model on the strips of a store."""
    from shutterless.workflows.settings import load_settings

    settings = load_settings(config, set_ or ()).train_for(model)
    uri = choose_tracking(tracking)
    from shutterless.workflows.tracking import open_tracking, resolve_model
    from shutterless.workflows.train import train_model

    out = out or Path("runs") / model
    start = resolve_model(init) if init else None
    train_model(
        store, family=str(model), settings=settings, out=out, init=start, tracking=open_tracking(uri),
        progress=make_progress(quiet),
    )  # fmt: skip
    typer.echo(f"model: {out}")
    return DONE


@command
def evaluate(
    store: Store,
    model: Annotated[
        list[str] | None, typer.Option(help=f"{MODEL_HELP} Repeatable; default: bundled and template-bank.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Truth table; default: the one beside the simulated frames.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and figures.")] = Path("runs/evaluation"),
    config: Config = None,
    set_: Set = None,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Measure completeness, false alarms and loss of one or several detectors."""
    from shutterless.workflows.settings import load_settings

    settings = load_settings(config, set_ or ()).evaluate
    uri = choose_tracking(tracking)
    from shutterless.workflows.evaluate import evaluate_detectors
    from shutterless.workflows.ingest import find_truth
    from shutterless.workflows.tracking import open_tracking

    evaluation = evaluate_detectors(
        store, references=model or ["bundled", "template-bank"], truth=truth or find_truth(store), out=out,
        settings=settings, tracking=open_tracking(uri), progress=make_progress(quiet),
    )  # fmt: skip
    typer.echo(evaluation.text())
    typer.echo(f"evaluation: {out}")
    return DONE


@command
def compare(
    experiment: Annotated[str, typer.Option(help="Name of the tracked experiment.")] = "quickstart",
    metric: Annotated[str, typer.Option(help="Metric to order the runs by.")] = "completeness",
    out: Annotated[Path, typer.Option(help="Folder for the table and report.")] = Path("runs/comparison"),
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Compare tracked runs in a table and a report."""
    uri = choose_tracking(tracking)
    from shutterless.workflows.compare import compare_runs

    table = compare_runs(tracking_uri=uri, experiment=experiment, metric=metric, out=out)
    typer.echo(table.to_string(index=False, na_rep="-", float_format="{:.3f}".format))
    typer.echo(f"comparison: {out}")
    return DONE


@command
def search(
    files: Files,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "bundled",
    out: Annotated[Path, typer.Option(help="Folder for the candidates.")] = Path("runs/search"),
    instrument: Instrument = None,
    false_alarms_per_hour: Annotated[
        float | None, typer.Option(help="False alarms per amplifier-hour at which to cut.", show_default=False)
    ] = None,
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
    from shutterless.workflows.cluster import open_executor
    from shutterless.workflows.ingest import SEARCH_PIXELS_PER_SECOND

    settings, supplied, instrument = _search_settings(config, set_, false_alarms_per_hour, instrument)
    if dry_run:
        workers = show_jobs(workers, scheduler, no_dask, slurm)
        wanted = f"candidates.parquet and candidates.ecsv to {out}"
        return describe_plan(files, instrument, supplied, workers, SEARCH_PIXELS_PER_SECOND, lambda _: wanted)
    choose_tracking(tracking)
    from shutterless.workflows.search import search_files

    progress = make_progress(quiet)
    with open_executor(workers, scheduler, no_dask, slurm) as executor:
        result = search_files(
            files, reference=model, out=out, settings=settings, catalogue=catalogue, instrument=instrument,
            supplied=supplied, executor=executor, resume=resume, progress=progress,
        )  # fmt: skip
    note_reading(progress, result.instruments, result.warnings)
    typer.echo(f"{len(result.candidates)} candidates in {out}")
    return list_failures(failure_lines(result.failures))


@command
def watch(
    directory: Annotated[Path, typer.Argument(help="Folder in which frames arrive.", show_default=False)],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "bundled",
    out: Annotated[Path, typer.Option(help="Folder for the candidates.")] = Path("runs/watch"),
    instrument: Instrument = None,
    false_alarms_per_hour: Annotated[
        float | None, typer.Option(help="False alarms per amplifier-hour at which to cut.", show_default=False)
    ] = None,
    catalogue: Catalogue = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks at the folder.")] = 2.0,
    settle: Annotated[float, typer.Option(help="Seconds for which a file must not change to be whole.")] = 5.0,
    stop_after: Annotated[
        float | None,
        typer.Option(help="Stop when nothing has come for so many seconds; default: never.", show_default=False),
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
    """Search frames as they arrive, and say how far behind the sky it is; a restart goes on where it was."""
    from shutterless.workflows.cluster import open_executor

    settings, supplied, instrument = _search_settings(config, set_, false_alarms_per_hour, instrument)
    choose_tracking(tracking)
    from shutterless.workflows.search import SearchJob
    from shutterless.workflows.watch import Watcher, watch_folder

    progress = make_progress(quiet)
    job = SearchJob.prepare(model, out, settings, catalogue=catalogue, instrument=instrument, supplied=supplied)
    with open_executor(workers, scheduler, no_dask, slurm) as executor:
        watcher = Watcher(directory, job, executor, settle_s=settle)
        n_failed = watch_folder(watcher, progress.say, every_s=every, stop_after_s=stop_after)
    typer.echo(f"candidates: {out}")
    return SOME_FAILED if n_failed else DONE


def _search_settings(
    config: Path | None, set_: list[str] | None, false_alarms_per_hour: float | None, instrument: str | None
) -> tuple[SearchSettings, dict[str, str], str | None]:
    """Settings of a search, header values given by the user, and the instrument."""
    from shutterless.workflows.settings import load_settings

    overrides, header = split_set(set_ or ())
    if false_alarms_per_hour is not None:
        overrides.append(f"search.false_alarms_per_hour={false_alarms_per_hour}")
    settings = load_settings(config, overrides)
    return settings.search, {**settings.ingest.header, **header}, instrument or settings.ingest.instrument


@command
def lightcurve(
    files: Files,
    x: Annotated[
        float | None, typer.Option(help="Column of one star, in read order; default: every star.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of one star of the catalogue.", show_default=False)] = None,
    catalogue: Catalogue = None,
    out: Annotated[Path, typer.Option(help="Folder for the light curves.")] = Path("runs/lightcurves"),
    format_: Annotated[
        list[str] | None, typer.Option("--format", help="parquet, ecsv, csv or fits; repeatable.")
    ] = None,
    bin_rows: Annotated[int, typer.Option(help="Rows averaged.")] = 1,
    barycentric: Annotated[
        bool, typer.Option("--barycentric", help="Add BJD_TDB, the time at the barycentre.")
    ] = False,
    ra: Annotated[
        str | None,
        typer.Option(
            help="Right ascension for --barycentric (degrees or HH:MM:SS); default: header.", show_default=False
        ),
    ] = None,
    dec: Annotated[str | None, typer.Option(help="Declination (degrees or DD:MM:SS).", show_default=False)] = None,
    instrument: Instrument = None,
    resume: Resume = False,
    set_: Set = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    no_dask: NoDask = False,
    slurm: Slurm = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Write times and fluxes of one star or of all, blended neighbours fitted together."""
    from shutterless.pipeline.barycentric import parse_direction
    from shutterless.workflows.cluster import open_executor
    from shutterless.workflows.lightcurve import write_light_curves
    from shutterless.workflows.settings import load_settings

    overrides, header = split_set(set_ or ())
    settings = load_settings(None, overrides).ingest
    if (ra is None) != (dec is None) or (ra is not None and not barycentric):
        raise ValueError("--ra and --dec belong together, and to --barycentric")
    direction = None if ra is None else parse_direction(ra, dec, "--ra and --dec")
    progress = make_progress(quiet)
    with open_executor(workers, scheduler, no_dask, slurm) as executor:
        result = write_light_curves(
            files, out, x=x, name=name, catalogue=catalogue, formats=format_ or ["parquet"], bin_rows=bin_rows,
            barycentric=barycentric, direction=direction,
            instrument=instrument or settings.instrument, supplied={**settings.header, **header}, executor=executor,
            resume=resume, progress=progress,
        )  # fmt: skip
    note_reading(progress, result.instruments, result.warnings)
    typer.echo(f"{result.n_stars} stars in {len(result.paths)} files in {out}")
    return list_failures(failure_lines(result.failures))


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


@command
def report(
    directory: Annotated[Path, typer.Argument(help="Folder of a run, a search or a store.", show_default=False)],
    entry: Annotated[
        list[str] | None,
        typer.Option(help="Amplifier of a store to show pictures of; repeatable. Default: all, or the 16 worst."),
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Write a self-contained HTML report: of a run, of a search, or of the quality of a store's amplifiers."""
    from shutterless.workflows.report import write_report

    typer.echo(f"report: {write_report(directory, entry or ())}")
    return DONE


@command
def describe(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = "bundled",
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show the layers, shapes, parameters and hyperparameters of a model."""
    choose_tracking(tracking)
    from shutterless.workflows.tracking import resolve_model

    folder = resolve_model(model)
    if folder is None:
        typer.echo("template-bank: no weights; PSF filter in x, box, Gaussian and flare shapes in time, with vetoes")
        return DONE
    from shutterless.models.describe import count_parameters, hyperparameters, layer_table
    from shutterless.models.families import family_of, load_model

    loaded = load_model(folder)
    typer.echo(f"{family_of(loaded)} in {folder}: {count_parameters(loaded):,} parameters")
    typer.echo(layer_table(loaded).to_string(index=False))
    for key, value in hyperparameters(loaded).items():
        typer.echo(f"{key} = {value}")
    return DONE


if __name__ == "__main__":
    main()
