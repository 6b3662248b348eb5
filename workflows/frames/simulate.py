"""Simulate frames: one task per CCD and file, then the truth tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from shutterless.pipeline.reading.fits_files import FRAME_SUFFIXES
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.simulate import simulate_file
from shutterless.pipeline.simulation.truth import CATALOGUE, write_catalogue, write_tables
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.frames.ingest import prepare_folder


class SimulateError(ValueError):
    """A folder into which nothing is simulated."""


@dataclass(frozen=True)
class _FileTask:
    """One unit of work: a file of a CCD."""

    ccd: int
    file_index: int


@dataclass(frozen=True)
class SimulateResult:
    """Files written, in order of CCD and time, the tables beside them, and one line per file that failed."""

    files: tuple[Path, ...]
    truth: Path
    stars: Path
    catalogue: Path
    failures: tuple[str, ...]


def simulate_scene(
    settings: SceneSettings, out: str | Path, *, executor: Executor, progress: Progress | None = None
) -> SimulateResult:
    """Simulate every file of a sequence.

    Parameters
    ----------
    settings : SceneSettings
        Same settings, same files to the bit, whatever the executor.
    out : path
        Folder for the frames, ``truth.parquet``, ``stars.parquet`` and ``catalogue.csv``.
    executor : Executor
        Runs the tasks.
    progress : Progress, optional
        Shows the progress.
    """
    out = prepare_folder(out)
    tasks = [_FileTask(ccd, index) for ccd in settings.ccds for index in range(settings.files)]
    work = partial(_simulate_task, settings=settings, out=out)
    files: list[Path] = []
    truths: list[pd.DataFrame] = []
    stars: list[pd.DataFrame] = []
    failures = []
    for outcome in executor.map(work, tasks, describe=f"simulating {settings.sequence}", progress=progress):
        if outcome.value is None:
            failures.append(f"CCD {outcome.item.ccd}, file {outcome.item.file_index}: {outcome.error}")
            continue
        path, truth, star = outcome.value
        files.append(path)
        truths.append(truth)
        stars.append(star)
    truth_path, stars_path = write_tables(out, truths, stars)
    return SimulateResult(tuple(files), truth_path, stars_path, write_catalogue(out, stars), tuple(failures))


def make_room_for_frames(out: str | Path, *, force: bool) -> None:
    """Refuse a folder with finished frames, or remove these with their tables; other files stay.

    Raises
    ------
    SimulateError
        If there are any, and ``force`` is not set.
    """
    out = Path(out)
    truth, stars = out / "truth.parquet", out / "stars.parquet"
    if not truth.is_file():
        return
    tables = [pd.read_parquet(path, columns=["file"]) for path in (truth, stars) if path.is_file()]
    files = sorted(set(pd.concat(tables)["file"]))
    frames = [path for path in out.iterdir() if path.name.endswith(FRAME_SUFFIXES)]
    if not force and (files or frames):
        raise SimulateError(
            f"{out} already holds simulated frames ({max(len(files), len(frames))}) and their truth; choose another "
            "--out, or replace them with --force"
        )
    for name in files:
        (out / name).unlink(missing_ok=True)
    stars.unlink(missing_ok=True)
    (out / CATALOGUE).unlink(missing_ok=True)
    truth.unlink()


def _simulate_task(task: _FileTask, *, settings: SceneSettings, out: Path) -> tuple[Path, pd.DataFrame, pd.DataFrame]:
    return simulate_file(settings, task.ccd, task.file_index, out)
