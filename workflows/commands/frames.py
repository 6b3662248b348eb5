"""Commands that make and read frames: simulate, inject, ingest, check, lightcurve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shutterless.workflows.commands.application import command, show_jobs
from shutterless.workflows.commands.console import (
    DONE,
    SOME_FAILED,
    conclude,
    describe_plan,
    list_failures,
    make_progress,
    parse_numbers,
    parse_range,
    split_set,
)
from shutterless.workflows.commands.guide import suggest
from shutterless.workflows.commands.options import (
    AsStack,
    Catalogue,
    Debug,
    DryRun,
    Files,
    Force,
    Instrument,
    NoDask,
    Quiet,
    Resume,
    Scheduler,
    Set,
    Slurm,
    Workers,
    scene_option,
)


def _reading_options(set_: list[str] | None, instrument: str | None) -> tuple[str | None, dict[str, str]]:
    """Instrument and header values for reading frames: those given, else those of the settings."""
    from shutterless.workflows.settings.settings import load_settings

    overrides, header = split_set(set_ or ())
    settings = load_settings(None, overrides).ingest
    return instrument or settings.instrument, {**settings.header, **header}


@command
def simulate(
    out: Annotated[Path, typer.Option(help="Folder for the frames and truth tables.", show_default=False)],
    instrument: Annotated[str, scene_option("instrument", "Profile name or TOML file.")],
    ccds: Annotated[str, scene_option("ccds", "CCD numbers, such as 1,3 or 1-4.")],
    rows: Annotated[int, scene_option("rows", "Rows of one file.")],
    files: Annotated[int, scene_option("files", "Consecutive files of each CCD.")],
    events: Annotated[int, scene_option("events", "Events in each amplifier of each file.")],
    artefacts: Annotated[bool, scene_option("artefacts", "Cosmic rays and electronic pickup.")],
    atmosphere: Annotated[bool, scene_option("atmosphere", "Scintillation, motion, focus, thin cloud.")],
    detector: Annotated[bool, scene_option("detector", "Serial trap (pocket effect), bad columns, dropped rows.")],
    sky_lights: Annotated[bool, scene_option("sky_lights", "Satellites, aircraft, meteors, ghosts.")],
    seed: Annotated[int, scene_option("seed", "Same seed, same frames.")],
    sequence: Annotated[str, scene_option("sequence", "Name of the sequence; begins the file names.")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change another value of the scene (row_rate_hz=100); repeatable."
        ),
    ] = None,
    force: Force = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    no_dask: NoDask = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Simulate continuous-readout frames with events of known truth."""
    from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
    from shutterless.pipeline.reading.instruments import load_frame_profile
    from shutterless.workflows.execution.cluster import open_executor
    from shutterless.workflows.frames.simulate import make_room_for_frames, simulate_scene
    from shutterless.workflows.settings.settings import load_scene

    given = {"instrument": instrument, "ccds": parse_numbers(ccds), "rows": rows, "files": files, "events": events}
    given |= {"artefacts": artefacts, "seed": seed, "sequence": sequence}
    given |= {"atmosphere": atmosphere, "detector": detector, "sky_lights": sky_lights}
    scene = load_scene(given, set_ or ())
    if scene.rows < BLOCK_ROWS:
        raise ValueError(
            f"--rows {scene.rows}: frames are calibrated in blocks of {BLOCK_ROWS} rows; give at least one"
        )
    load_frame_profile(scene.instrument)  # wrong for one file is wrong for all
    make_room_for_frames(out, force=force)
    progress = make_progress(quiet)
    with open_executor(workers, scheduler, no_dask, when_worth=True, announce=progress.write_line) as executor:
        result = simulate_scene(scene, out, executor=executor, progress=progress)
    typer.echo(f"{len(result.files)} files and {result.truth.name} in {out}")
    suggest(("search", out, "--out", "found"), ("ingest", out, "--out", "store"), quiet=quiet)
    return list_failures(result.failures)


@command
def inject(
    files: Files,
    out: Annotated[Path, typer.Option(help="Folder for the copies of the frames.", show_default=False)],
    events: Annotated[int, scene_option("events", "Events in each amplifier of each file.")],
    kinds: Annotated[str, scene_option("kinds", "Kinds of events, equally frequent.")],
    partial: Annotated[float, scene_option("partial", "Share of events that an end of the file cuts.")],
    rho: Annotated[str, typer.Option(help="Smallest and largest optimal S/N.")] = "5,20",
    seed: Annotated[int, typer.Option(help="Same seed, same events.")] = 1,
    hide: Annotated[
        Path | None,
        typer.Option(help="Folder for the truth tables, for a blind test; default: --out.", show_default=False),
    ] = None,
    instrument: Instrument = None,
    stack: AsStack = False,
    set_: Set = None,
    dry_run: DryRun = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    no_dask: NoDask = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Write copies of frames with events in them and their truth, for a blind test of any detector."""
    from shutterless.pipeline.injection.amplifiers import InjectionSettings
    from shutterless.workflows.execution.cluster import open_executor
    from shutterless.workflows.frames.inject import INJECT_PIXELS_PER_SECOND, inject_files, share_equally

    shares = share_equally([kind.strip() for kind in kinds.split(",")])
    wanted = InjectionSettings(kinds=shares, rho=parse_range(rho, "--rho"), partial=partial)
    instrument, supplied = _reading_options(set_, instrument)
    if dry_run:
        written = f"as many frames to {out}, truth.parquet and stars.parquet to {hide or out}"
        return describe_plan(
            files, instrument, supplied, workers, no_dask, INJECT_PIXELS_PER_SECOND, lambda _: written, stack
        )
    progress = make_progress(quiet)
    with open_executor(workers, scheduler, no_dask, when_worth=True, announce=progress.write_line) as executor:
        result = inject_files(
            files, out, settings=wanted, events=events, seed=seed, hide=hide, stack=stack, instrument=instrument,
            supplied=supplied, executor=executor, progress=progress,
        )  # fmt: skip
    done = f"{result.n_events} events in {len(result.files)} files in {out}; their truth is {result.truth}"
    return conclude(progress, result, done, ("search", out, "--out", "found"))


@command
def ingest(
    files: Files,
    out: Annotated[Path, typer.Option(help="Folder of the store.", show_default=False)],
    instrument: Instrument = None,
    stack: AsStack = False,
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
    from rich.filesize import decimal

    from shutterless.workflows.execution.cluster import open_executor
    from shutterless.workflows.frames.ingest import INGEST_PIXELS_PER_SECOND, estimate_store_bytes, ingest_files

    instrument, supplied = _reading_options(set_, instrument)
    progress = make_progress(quiet)
    if dry_run:
        workers = show_jobs(workers, scheduler, no_dask, slurm, out)
        return describe_plan(
            files, instrument, supplied, workers, no_dask, INGEST_PIXELS_PER_SECOND,
            lambda n_pixels: f"about {decimal(round(estimate_store_bytes(n_pixels)))} to {out}", stack,
        )  # fmt: skip
    with open_executor(
        workers, scheduler, no_dask, slurm, out=out, when_worth=True, announce=progress.write_line
    ) as executor:
        result = ingest_files(
            files, out, instrument=instrument, supplied=supplied, resume=resume, stack=stack, executor=executor,
            progress=progress,
        )  # fmt: skip
    return conclude(progress, result, f"{len(result.manifest)} amplifiers in {out}", ("train", out), ("report", out))


@command
def check(
    files: Files,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
    instrument: Instrument = None,
    stack: AsStack = False,
    set_: Set = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Say what each file is taken for by its headers, and what is odd."""
    from shutterless.workflows.execution.cluster import SerialExecutor
    from shutterless.workflows.frames.check import check_files, describe_check

    instrument, supplied = _reading_options(set_, instrument)
    rows = check_files(
        files, instrument=instrument, supplied=supplied, stack=stack, executor=SerialExecutor(),
        progress=make_progress(quiet),
    )  # fmt: skip
    typer.echo(describe_check(rows, as_json=as_json))
    suggest(("search", *files[:2], "--out", "found"), quiet=quiet or as_json)
    return SOME_FAILED if any(row["problems"] for row in rows) else DONE


@command
def lightcurve(
    files: Files,
    x: Annotated[
        float | None, typer.Option(help="Column of one star, in read order; default: every star.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of one star of the catalogue; default: every star.", show_default=False)
    ] = None,
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
    dec: Annotated[
        str | None, typer.Option(help="Declination (degrees or DD:MM:SS); default: header.", show_default=False)
    ] = None,
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
    from shutterless.pipeline.results.barycentric import parse_direction
    from shutterless.workflows.execution.cluster import open_executor
    from shutterless.workflows.frames.lightcurve import write_light_curves

    instrument, supplied = _reading_options(set_, instrument)
    if (ra is None) != (dec is None) or (ra is not None and not barycentric):
        raise ValueError("--ra and --dec belong together, and to --barycentric")
    direction = None if ra is None else parse_direction(ra, dec, "--ra and --dec")
    progress = make_progress(quiet)
    with open_executor(
        workers, scheduler, no_dask, slurm, out=out, when_worth=True, announce=progress.write_line
    ) as executor:
        result = write_light_curves(
            files, out, x=x, name=name, catalogue=catalogue, formats=format_ or ["parquet"], bin_rows=bin_rows,
            barycentric=barycentric, direction=direction,
            instrument=instrument, supplied=supplied, executor=executor,
            resume=resume, progress=progress,
        )  # fmt: skip
    done = f"{result.n_stars} stars in {len(result.paths)} files in {out}"
    return conclude(progress, result, done, "read a table with pandas.read_parquet or astropy's Table.read")
