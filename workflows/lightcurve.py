"""Frames in, light curves out: ingest, fit the stars of an amplifier together, write a file per amplifier or star."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.pipeline.candidates import share_onsets
from shutterless.pipeline.catalogue import apply_catalogue, read_catalogue
from shutterless.pipeline.lightcurves import LightCurveError, fit_light_curves
from shutterless.pipeline.store import open_amplifier, write_parquet
from shutterless.pipeline.streaks import nearest_streak
from shutterless.workflows.cluster import Executor
from shutterless.workflows.ingest import FAILURES, ingest_files, prepare_folder
from shutterless.workflows.lightcurve_files import FORMATS, write_stars
from shutterless.workflows.progress import Progress

X_MATCH_PX = 1.5  # how far from --x a star may stand
_N_NEAREST = 3  # stars named when there is none where one was asked for


@dataclass(frozen=True)
class LightCurveTask:
    """One amplifier: where it lies, its streaks with what other files and catalogues know of them, what to write."""

    store: str
    entry: str
    streaks: pd.DataFrame
    wanted: tuple[int, ...]
    path_stem: str
    formats: tuple[str, ...]
    bin_rows: int


@dataclass(frozen=True)
class LightCurveResult:
    """Files written, stars in them, what failed, and lines for the user."""

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
    catalogue: str | Path | None = None,
    formats: Sequence[str] = ("parquet",),
    bin_rows: int = 1,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
    executor: Executor,
    resume: bool = False,
    progress: Progress | None = None,
) -> LightCurveResult:
    """Write the light curves of every star of every amplifier, or of the star at one column.

    Parameters
    ----------
    files : sequence of path
    out : path
        Gets ``store/``, ``failures.parquet`` and one file per amplifier, ``ENTRY.parquet``, or with ``x`` per star,
        ``ENTRY_x0123.45.parquet``.
    x : float, optional
        Column in read order; the nearest star within `X_MATCH_PX` in each amplifier that has one.
    catalogue : path, optional
        As `shutterless.pipeline.catalogue.read_catalogue`.
    formats : sequence of str
        Of `FORMATS`. In ECSV, which lightkurve reads, ``time`` is the time of reading.
    bin_rows : int
        Rows averaged.
    instrument, supplied
        As `shutterless.pipeline.frames.read_info`.
    executor : Executor
    resume : bool
        Keep amplifiers that were calibrated before.
    progress : Progress, optional

    Returns
    -------
    LightCurveResult

    Raises
    ------
    LightCurveError
        If a format is unknown, ``bin_rows`` below 1, or no amplifier has a star at ``x``.
    CatalogueError
        If the catalogue cannot be used.
    """
    _check_options(formats, bin_rows)
    stars = None if catalogue is None else read_catalogue(catalogue)
    out = prepare_folder(out)
    ingested = ingest_files(
        files, out / "store", instrument=instrument, supplied=supplied, resume=resume, executor=executor,
        progress=progress,
    )  # fmt: skip
    used = {Path(file).name for file in files}
    entries = ingested.manifest.loc[ingested.manifest["file"].isin(used), "entry"].tolist()
    streaks = _known_streaks(out / "store", entries, stars)
    tasks = [
        LightCurveTask(str(out / "store"), entry, table, wanted, str(out / stem), tuple(formats), bin_rows)
        for entry, table in streaks.items()
        for wanted, stem in _choose(entry, table, x)
    ]
    if x is not None and entries and not tasks:
        raise LightCurveError(_no_star(x, streaks))
    paths: list[Path] = []
    failures = []
    for outcome in executor.map(_write_task, tasks, describe="fitting light curves", progress=progress):
        if outcome.value is None:
            failures.append(
                {"file": outcome.item.entry, "path": outcome.item.store, "quadrant": None, "reason": outcome.error}
            )
        else:
            paths += outcome.value
    table = pd.concat([ingested.failures, pd.DataFrame(failures)], ignore_index=True) if failures else ingested.failures
    write_parquet(table, out / FAILURES)
    failed = {failure["file"] for failure in failures}
    n_stars = sum(len(task.wanted) for task in tasks if task.entry not in failed)
    return LightCurveResult(tuple(paths), n_stars, table, ingested.warnings, ingested.instruments)


def _check_options(formats: Sequence[str], bin_rows: int) -> None:
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise LightCurveError(f"--format {', '.join(unknown) or '(none)'}: it is not one of {', '.join(FORMATS)}")
    if bin_rows < 1:
        raise LightCurveError(f"--bin-rows {bin_rows}: it must be 1 (every row) or more")


def _known_streaks(store: Path, entries: Sequence[str], stars: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    """Streaks by entry, with what the other files of their sequence and the catalogue say of them."""
    amplifiers = {entry: open_amplifier(store, entry) for entry in entries}
    readouts = {entry: amplifier.readout for entry, amplifier in amplifiers.items()}
    streaks = share_onsets({entry: amplifier.streaks for entry, amplifier in amplifiers.items()}, readouts)
    if stars is None:
        return streaks
    return {entry: apply_catalogue(table, stars, readouts[entry]) for entry, table in streaks.items()}


def _choose(entry: str, streaks: pd.DataFrame, x: float | None) -> Iterator[tuple[tuple[int, ...], str]]:
    """Positions of the streaks that go into one file, and its name without suffix."""
    if x is None:
        yield tuple(range(len(streaks))), entry
        return
    index = int(nearest_streak(streaks, np.array([x]), X_MATCH_PX)[0])
    if index >= 0:
        yield (index,), f"{entry}_x{streaks['x'].iloc[index]:07.2f}"


def _no_star(x: float, streaks: Mapping[str, pd.DataFrame]) -> str:
    found = [(abs(value - x), value, entry) for entry, table in streaks.items() for value in table["x"]]
    near = ", ".join(f"{value:.2f} ({entry})" for _, value, entry in sorted(found)[:_N_NEAREST])
    return f"no star within {X_MATCH_PX} px of x = {x:g}; the nearest are at x = {near or 'none at all'}"


def _write_task(task: LightCurveTask) -> list[Path]:
    """Fit one amplifier and write the stars that are wanted."""
    amplifier = replace(open_amplifier(task.store, task.entry), streaks=task.streaks)
    curves = fit_light_curves(amplifier, bin_rows=task.bin_rows)
    paths = [Path(f"{task.path_stem}.{name}") for name in task.formats]
    for name, path in zip(task.formats, paths, strict=True):
        write_stars(path, name, curves, task.wanted, amplifier.file)
    return paths
