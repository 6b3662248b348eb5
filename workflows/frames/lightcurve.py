"""Make light curves from frames: ingest, fit the stars of an amplifier together, write a file per amplifier or star."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.astrometry.identify import identify_stars, read_any_catalogue
from shutterless.pipeline.astrometry.pointing import AmplifierSky, PointingError, read_sky
from shutterless.pipeline.calibration.streaks.find import nearest_streak
from shutterless.pipeline.reading.frames import FrameError, read_frame_info
from shutterless.pipeline.results.barycentric import BarycentreError, Direction, read_pointing
from shutterless.pipeline.results.catalogue import CATALOGUE_MATCH_PX, MATCH_MAG
from shutterless.pipeline.results.lightcurves import LightCurveError, fit_light_curves
from shutterless.pipeline.store.store import open_amplifier
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.frames.ingest import failed_tasks, ingest_files, prepare_folder, used_entries, write_failures
from shutterless.workflows.frames.lightcurve_files import FORMATS, Observer, write_stars

X_MATCH_PX = 1.5  # largest distance of a star from --x
_STAR_S = 0.02  # of the fit of one star in some ten thousand rows
_N_NEAREST = 3  # stars named in the error if there is none at --x


@dataclass(frozen=True)
class LightCurveTask:
    """One amplifier: its folder, its streaks with data from other files and catalogues, and what to write."""

    store: str
    entry: str
    streaks: pd.DataFrame
    wanted: tuple[int, ...]
    path_stem: str
    formats: tuple[str, ...]
    bin_rows: int
    observer: Observer | None = None


@dataclass(frozen=True)
class LightCurveResult:
    """Files written, number of stars, failures, and lines for the user."""

    paths: tuple[Path, ...]
    n_stars: int
    failures: pd.DataFrame
    warnings: tuple[str, ...]
    instruments: tuple[str, ...]


def write_light_curves(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    x: float | None = None,
    name: str | None = None,
    catalogue: str | Path | None = None,
    formats: Sequence[str] = ("parquet",),
    bin_rows: int = 1,
    barycentric: bool = False,
    direction: Direction | None = None,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
    executor: Executor,
    resume: bool = False,
    progress: Progress | None = None,
) -> LightCurveResult:
    """Write the light curves of every star of every amplifier, or of the star at one column or of one name.

    Parameters
    ----------
    files : sequence of path
    out : path
        For ``store/``, ``failures.parquet`` and one file per amplifier, ``ENTRY.parquet``, or with ``x`` or ``name``
        one per star, ``ENTRY_x0123.45.parquet``.
    x : float, optional
        Column in read order; selects the nearest star within `X_MATCH_PX` in each amplifier.
    name : str, optional
        Name of a star in the catalogue.
    catalogue : path, optional
        As `shutterless.pipeline.astrometry.identify.read_any_catalogue`.
    formats : sequence of str
        Of `FORMATS`. lightkurve opens FITS (`lightkurve.read`, the first star without ``ext``) and ECSV; in both
        ``time`` is the time of reading; in FITS with ``barycentric`` it is the time at the barycentre.
    bin_rows : int
        Rows averaged.
    barycentric : bool
        Add ``bjd_tdb``.
    direction : Direction, optional
        Direction of stars without ``ra`` and ``dec`` in the catalogue. When left out, it is the middle of the stars
        with positions or, without any, the pointing in the header.
    instrument, supplied
        As `shutterless.pipeline.reading.frames.read_frame_info`.
    executor : Executor
    resume : bool
        Keep amplifiers that are already calibrated.
    progress : Progress, optional

    Returns
    -------
    LightCurveResult

    Raises
    ------
    LightCurveError
        If a format is unknown, ``bin_rows`` is below 1, or no amplifier has a star at ``x`` or of that ``name``.
    CatalogueError
        If the catalogue cannot be used.
    BarycentreError
        If barycentric times lack a position, a site or a clock.
    """
    _check_options(formats, bin_rows)
    stars = None if catalogue is None else read_any_catalogue(catalogue)
    _check_star(x, name, stars)
    observers, notes = _find_observers(files, instrument, supplied, direction, stars) if barycentric else ({}, [])
    out = prepare_folder(out)
    ingested = ingest_files(
        files, out / "store", instrument=instrument, supplied=supplied, resume=resume, executor=executor,
        progress=progress,
    )  # fmt: skip
    entries = used_entries(ingested.manifest, files)["entry"].tolist()
    amplifiers = {entry: open_amplifier(out / "store", entry) for entry in entries}
    _check_streaks(amplifiers)
    paths_by_name = {Path(file).name: Path(file) for file in files}
    found_stars = identify_stars(
        {entry: amplifier.streaks for entry, amplifier in amplifiers.items()},
        {entry: amplifier.readout for entry, amplifier in amplifiers.items()},
        stars,
        {
            entry: _find_sky(paths_by_name[amplifier.file], amplifier.readout.quadrant, instrument, supplied)
            for entry, amplifier in amplifiers.items()
        }
        if stars is not None
        else {},
    )
    streaks = found_stars.streaks
    tasks = [
        LightCurveTask(
            str(out / "store"), entry, table, wanted, str(out / stem), tuple(formats), bin_rows,
            observers.get(amplifiers[entry].file),
        )
        for entry, table in streaks.items()
        for wanted, stem in _choose(entry, table, x, name)
    ]  # fmt: skip
    if entries and not tasks:
        raise LightCurveError(_no_star(x, name, streaks, stars))
    paths: list[Path] = []
    failures: dict[str, str] = {}
    seconds = _STAR_S * sum(len(task.wanted) for task in tasks)
    for outcome in executor.map(
        _write_task, tasks, describe="fitting light curves", progress=progress, seconds=seconds
    ):
        if outcome.value is None:
            failures[outcome.item.entry] = outcome.error or ""
        else:
            paths += outcome.value
    table = write_failures(out, ingested.failures, failed_tasks(failures, out / "store"))
    n_stars = sum(len(task.wanted) for task in tasks if task.entry not in failures)
    return LightCurveResult(
        tuple(paths), n_stars, table, (*notes, *ingested.warnings, *found_stars.warnings), ingested.instruments
    )


def _find_sky(
    path: Path, quadrant: int | None, instrument: str | None, supplied: Mapping[str, str] | None
) -> AmplifierSky | str:
    """Pointing of an amplifier, or the reason why it is not known."""
    try:
        return read_sky(path, quadrant or 1, instrument, supplied)
    except (PointingError, FrameError) as error:
        return str(error)


def _find_observers(
    files: Sequence[str | Path],
    instrument: str | None,
    supplied: Mapping[str, str] | None,
    direction: Direction | None,
    stars: pd.DataFrame | None,
) -> tuple[dict[str, Observer], list[str]]:
    """Site and pointing by file name, and lines for the user on the accuracy of the positions.

    Raises
    ------
    BarycentreError
        If a profile has no site, or a header has no pointing and none is given.
    """
    centre = direction
    if centre is None and stars is not None and {"ra", "dec"} <= set(stars):
        centre = Direction(float(stars["ra"].median()), float(stars["dec"].median()))
    observers = {}
    for file in files:
        try:
            profile = read_frame_info(file, instrument, supplied).profile
        except FrameError:  # recorded when it is ingested
            continue
        if profile.site is None:
            raise BarycentreError(
                f"instrument profile {profile.name} has no site of the telescope, so no barycentric time is "
                "known; add [site] with latitude_deg, longitude_deg and height_m to it"
            )
        observers[Path(file).name] = Observer(profile.site, centre or read_pointing(file))
    if centre is not None:
        return observers, []
    return observers, [
        "barycentric times take every star to be where the camera pointed, which is wrong by up to 8.7 s a degree; "
        "give --ra and --dec of the star, or a catalogue with ra and dec"
    ]


def _check_options(formats: Sequence[str], bin_rows: int) -> None:
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise LightCurveError(f"--format {', '.join(unknown) or '(none)'}: it is not one of {', '.join(FORMATS)}")
    if bin_rows < 1:
        raise LightCurveError(f"--bin-rows {bin_rows}: it must be 1 (every row) or more")


def _check_streaks(amplifiers: Mapping[str, Amplifier]) -> None:
    for entry, amplifier in amplifiers.items():
        if amplifier.n_y > 1:
            raise LightCurveError(
                f"{entry} is a stack of images of {amplifier.n_y} × {amplifier.n_columns} pixels (y, x), and light "
                "curves are made of streaks; lightkurve makes them of target pixel files, and sums of pixels are in "
                "`shutterless report` of a search"
            )


def _check_star(x: float | None, name: str | None, stars: pd.DataFrame | None) -> None:
    if name is None:
        return
    if x is not None:
        raise LightCurveError(f"--x {x:g} and --name {name} both choose a star; give one of them")
    if stars is None or "name" not in stars:
        lacking = "no --catalogue is given" if stars is None else "the catalogue has no column name"
        raise LightCurveError(f"--name {name}: {lacking}, and names are known from a catalogue alone")
    known = stars["name"].dropna().astype(str).unique().tolist()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=_N_NEAREST) or known[:_N_NEAREST]
        raise LightCurveError(f"--name {name}: not in the catalogue; the nearest names are {', '.join(near)}")


def _choose(
    entry: str, streaks: pd.DataFrame, x: float | None, name: str | None
) -> Iterator[tuple[tuple[int, ...], str]]:
    """Positions of the streaks of one file, and the file's name without suffix."""
    if x is None and name is None:
        yield tuple(range(len(streaks))), entry
        return
    if name is None:
        chosen = nearest_streak(streaks, np.array([x]), X_MATCH_PX)
    else:
        chosen = np.flatnonzero(streaks["name"] == name)
    for index in chosen[chosen >= 0]:
        yield (int(index),), f"{entry}_x{streaks['x'].iloc[index]:07.2f}"


def _no_star(x: float | None, name: str | None, streaks: Mapping[str, pd.DataFrame], stars: pd.DataFrame | None) -> str:
    if name is not None and stars is not None:
        star = stars[stars["name"].astype(str) == name].iloc[0]
        if "x" not in star:
            return (
                f"--name {name}: no streak is this star's, which the catalogue has at ra = {star['ra']:.5f}, "
                f"dec = {star['dec']:.5f}; try --x with the column where it is seen"
            )
        return (
            f"--name {name}: no streak is within {CATALOGUE_MATCH_PX:g} px and {MATCH_MAG:g} mag of the catalogue's "
            f"x = {star['x']:.2f}, mag = {star['mag']:.2f}; try --x with the column where it is seen"
        )
    found = [(abs(value - x), value, entry) for entry, table in streaks.items() for value in table["x"]]
    near = ", ".join(f"{value:.2f} ({entry})" for _, value, entry in sorted(found)[:_N_NEAREST])
    return f"no star within {X_MATCH_PX} px of x = {x:g}; the nearest are at x = {near or 'none at all'}"


def _write_task(task: LightCurveTask) -> list[Path]:
    """Fit one amplifier and write the selected stars."""
    amplifier = replace(open_amplifier(task.store, task.entry), streaks=task.streaks)
    curves = fit_light_curves(amplifier, bin_rows=task.bin_rows)
    paths = [Path(f"{task.path_stem}.{name}") for name in task.formats]
    for name, path in zip(task.formats, paths, strict=True):
        write_stars(path, name, curves, task.wanted, amplifier.file, task.observer)
    return paths
