"""Inject events into frames for a blind test: one task per file, then the truth tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from shutterless.pipeline.injection.amplifiers import InjectionSettings
from shutterless.pipeline.injection.files import inject_file
from shutterless.pipeline.injection.injected_files import InjectedFile
from shutterless.pipeline.simulation.truth import write_tables
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.frames.ingest import (
    INGEST_PIXELS_PER_SECOND,
    STACKED,
    TRUTH,
    Survey,
    estimate_seconds,
    prepare_folder,
    survey_files,
)

# a file is calibrated, read once more and packed
INJECT_PIXELS_PER_SECOND = INGEST_PIXELS_PER_SECOND / 2


class InjectError(ValueError):
    """Settings or folders that no injection can use."""


@dataclass(frozen=True)
class InjectResult:
    """Files written, the two tables, one line per failed file or amplifier, and lines for the user."""

    files: tuple[Path, ...]
    truth: Path
    stars: Path
    n_events: int
    failures: pd.DataFrame
    warnings: tuple[str, ...]
    instruments: tuple[str, ...]


def share_equally(kinds: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Kinds of event that are equally frequent, as `InjectionSettings` take them."""
    return tuple((kind, 1 / len(kinds)) for kind in kinds)


def inject_files(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    settings: InjectionSettings,
    events: int,
    seed: int,
    hide: str | Path | None = None,
    stack: bool = False,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
    executor: Executor,
    progress: Progress | None = None,
) -> InjectResult:
    """Write copies of frames with injected events.

    Parameters
    ----------
    files : sequence of path
        FITS files, real or simulated; they are only read.
    out : path
        Folder for the copies, which keep their names. It must not hold an input.
    settings : InjectionSettings
    events : int
        Number of events in each amplifier.
    seed : int
        The same seed gives the same files, with any executor and in any order of the files.
    hide : path, optional
        Folder for ``truth.parquet`` and ``stars.parquet``, so that a test stays blind; ``out`` if left out.
    stack : bool
        Take the images of all files for one cube, which is written to ``stacked/`` in ``out``.
    instrument, supplied
        As `shutterless.pipeline.reading.frames.read_frame_info`.
    executor : Executor
    progress : Progress, optional

    Notes
    -----
    The truth table holds the injected events. Events of the simulation are in the table beside a frame. Amplifiers
    that cannot be read are copied unchanged and listed.

    Raises
    ------
    InjectError
        If an input or an earlier truth table would be overwritten.
    """
    out, tables = Path(out), Path(hide or out)
    if events < 1:
        raise InjectError(f"events {events} must be at least 1 in each amplifier")
    inside = [str(file) for file in files if Path(file).resolve().parent == out.resolve()]
    if inside:
        raise InjectError(f"{inside[0]} lies in {out}, where its copy would replace it; choose another --out")
    if (tables / TRUTH).exists():
        raise InjectError(f"{tables} already holds a {TRUTH}; choose another folder, or remove it")
    prepare_folder(out)
    prepare_folder(tables)
    survey = survey_files(
        files, instrument=instrument, supplied=supplied, executor=executor, progress=progress,
        stack=out / STACKED if stack else None,
    )  # fmt: skip
    work = partial(
        inject_file, out=out, settings=settings, events=events, seed=seed, instrument=instrument,
        supplied=dict(supplied or {}),
    )  # fmt: skip
    copies: list[InjectedFile] = []
    failed = []
    seconds = estimate_seconds(survey.n_pixels, 1, INJECT_PIXELS_PER_SECOND)
    paths = [info.path for info in survey.infos]
    for outcome in executor.map(work, paths, describe="injecting events", progress=progress, seconds=seconds):
        path = outcome.item
        reasons = {None: outcome.error} if outcome.value is None else _found_out_late(outcome.value, survey)
        failed += [{"file": path.name, "path": str(path), "quadrant": q, "reason": why} for q, why in reasons.items()]
        if outcome.value is not None:
            copies.append(outcome.value)
    failures = pd.concat([survey.failures, pd.DataFrame(failed, columns=survey.failures.columns)], ignore_index=True)
    truth_path, stars_path = write_tables(tables, [copy.truth for copy in copies], [copy.stars for copy in copies])
    return InjectResult(
        files=tuple(copy.path for copy in copies),
        truth=truth_path,
        stars=stars_path,
        n_events=sum(len(copy.truth) for copy in copies),
        failures=failures,
        warnings=survey.warnings,
        instruments=tuple(survey.instruments),
    )


def _found_out_late(copy: InjectedFile, survey: Survey) -> dict[int | None, str]:
    """Amplifiers whose damage showed only in their pixels; damage in headers is in the survey."""
    known = next(info.skipped for info in survey.infos if info.path.name == copy.path.name)
    return {quadrant: f"FrameError: {why}" for quadrant, why in copy.skipped.items() if quadrant not in known}
