"""Calibrate frames into a store: one task per file and amplifier, failures recorded, the manifest last."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from shutterless.pipeline.files import remove_partials, write_parquet
from shutterless.pipeline.reading.cube_parts.stacks import plan_stack, write_stack
from shutterless.pipeline.reading.exposures import read_info
from shutterless.pipeline.reading.fits_files import has_fits_name
from shutterless.pipeline.reading.frames import FrameInfo, frame_stem
from shutterless.pipeline.reading.instruments import load_profile
from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import MANIFEST, read_manifest, write_manifest
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.execution.retries import alone

FAILURES = "failures.parquet"
NO_UTC = "no UTC: "  # how a note begins that says why
TRUTH = "truth.parquet"
STACKED = "stacked"  # folder of a cube that was joined from single images
_FAILURE_COLUMNS = ("file", "path", "quadrant", "reason")

# per worker, start-up included: the quickstart's 1.4 Gpix of .fits.fz were ingested in 62 s by two workers, and 0.22
# Gpix of them searched, from FITS to candidates, in 12 s
INGEST_PIXELS_PER_SECOND = 11e6
SEARCH_PIXELS_PER_SECOND = 9e6
_HEADER_S = 0.05  # of one file
# residuals as float16, baseline and sigma as float32 every 64 rows
_STORE_BYTES_PER_PIXEL = 2 + 2 * 4 / 64


class IngestError(ValueError):
    """Input files or an output folder that cannot be used as given."""


@dataclass(frozen=True)
class AmplifierTask:
    """One unit of work: a quadrant of a file, or an image cube, which has no quadrants."""

    path: Path
    quadrant: int | None


@dataclass(frozen=True)
class Survey:
    """Headers of the input files, before any pixel is read.

    ``failures`` has one row per file or quadrant that cannot be read; ``overlaps`` are lines for the user, and so are
    ``untimed``, on files whose rows have no UTC, unless the user has read them already.
    """

    infos: tuple[FrameInfo, ...]
    failures: pd.DataFrame
    overlaps: tuple[str, ...]
    untimed: tuple[str, ...] = ()

    @property
    def notes(self) -> list[tuple[Path, str]]:
        """What was taken, guessed or left out in each file, but for what ``untimed`` says."""
        return [(info.path, note) for info in self.infos for note in info.notes if not note.startswith(NO_UTC)]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines for the user."""
        return (*self.overlaps, *self.untimed, *describe_notes(self.notes))

    @property
    def tasks(self) -> list[AmplifierTask]:
        """Every amplifier that can be read, file by file."""
        return [AmplifierTask(info.path, quadrant) for info in self.infos for quadrant in info.readouts]

    @property
    def n_pixels(self) -> int:
        """Pixels of all readable amplifiers."""
        return sum(info.n_pixels for info in self.infos)

    @property
    def instruments(self) -> list[str]:
        """Names of the instrument profiles in use."""
        return sorted({info.profile.name for info in self.infos})


@dataclass(frozen=True)
class IngestResult:
    """Manifest of the store, failures (``file, path, quadrant, reason``), and lines for the user."""

    manifest: pd.DataFrame
    failures: pd.DataFrame
    warnings: tuple[str, ...]
    instruments: tuple[str, ...]


def survey_files(
    files: Sequence[str | Path],
    *,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
    executor: Executor,
    progress: Progress | None = None,
    same_names: bool = False,
    at_once: bool = True,
    stack: Path | None = None,
    with_pixels: bool = True,
    with_row_times: bool = True,
) -> Survey:
    """Read the headers of every file, recording those that cannot be read.

    A folder stands for the FITS files in it. With ``same_names`` files of one name in two folders are two files. With
    ``at_once`` files without a UTC are named where the progress is shown, before any work: an hour later it is too late
    to stop. With ``stack`` the images of all files become one cube in that folder, without pixels if asked, and this
    cube is what is surveyed. Without ``with_row_times`` the times of single images are left out: those of 10,000 cubes
    fill memory.

    Raises
    ------
    IngestError
        If no file is given, a folder has none, or two files would have the same name in a store.
    ProfileError
        If there is no such instrument.
    """
    paths = list_files(files) if same_names or stack is not None else _check_names(list_files(files))
    if instrument is not None:
        load_profile(instrument)  # wrong for one file is wrong for all
    infos, failures, stacked = [], list[dict[str, Any]](), tuple[str, ...]()
    if stack is not None:
        plan = plan_stack(paths, supplied or {})
        path, unread = write_stack(plan, stack, with_pixels=with_pixels)
        paths, stacked = [path], plan.notes
        failures += [failure_row(lost, None, reason) for lost, reason in (*plan.failures, *unread)]
    read = partial(_read_alone, instrument=instrument, supplied=dict(supplied or {}), with_row_times=with_row_times)
    seconds = _HEADER_S * len(paths)
    for outcome in executor.map(read, paths, describe="reading headers", progress=progress, seconds=seconds):
        if outcome.value is None:
            failures.append(failure_row(outcome.item, None, outcome.error or ""))
        else:
            infos.append(replace(outcome.value, notes=(*stacked, *outcome.value.notes)))
            failures += [failure_row(outcome.item, q, f"FrameError: {why}") for q, why in outcome.value.skipped.items()]
    untimed = describe_untimed(infos)
    if at_once and progress is not None and not progress.quiet:
        for line in untimed:
            progress.write_line(f"warning: {line}")
        untimed = []
    return Survey(tuple(infos), failure_table(failures), tuple(find_overlaps(infos)), tuple(untimed))


def describe_untimed(infos: Sequence[FrameInfo]) -> list[str]:
    """Lines on the files whose rows have no UTC, with what is missing or not understood, and how to give it."""
    missing: dict[Path, str] = {}
    reasons = []
    for info in infos:
        notes = [note for note in info.notes if note.startswith(NO_UTC)]
        keyword = _missing_keyword(info)
        if notes and not any(f"{keyword} is missing" in note for note in notes):
            reasons += [(info.path, note) for note in notes]
        elif keyword:
            missing[info.path] = keyword
    lines = []
    if missing:
        path, keyword = next(iter(missing.items()))
        way_out = "" if keyword == "a UTC" else f"; give it with --set {keyword}=VALUE"
        lines = [
            f"{len(missing)} of {len(infos)} files lack {keyword} ({path.name} first): times in seconds only{way_out}"
        ]
    return lines + describe_notes(reasons)


def _missing_keyword(info: FrameInfo) -> str:
    """Keyword without which rows of a file have no UTC, ``a UTC`` if its profile has none; empty if they have one."""
    for readout in info.readouts.values():
        for name, value in {"shutter_open_utc": readout.shutter_open_utc, "first_row": readout.first_row}.items():
            if value is None:
                return info.profile.keywords.get(name, "a UTC")
    return ""


def ingest_files(
    files: Sequence[str | Path],
    store: str | Path,
    *,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
    resume: bool = False,
    stack: bool = False,
    executor: Executor,
    progress: Progress | None = None,
) -> IngestResult:
    """Calibrate files into a store.

    Parameters
    ----------
    files : sequence of path
        FITS files.
    store : path
        Folder of the store; made if absent.
    instrument, supplied
        As `shutterless.pipeline.reading.frames.read_frame_info`.
    resume : bool
        Keep finished entries and the rest of an existing store.
    stack : bool
        Take the images of all files for one cube, which is written beside the store.
    executor : Executor
        Runs the tasks.
    progress : Progress, optional
        Shows the progress.

    Returns
    -------
    IngestResult
        Also written: the manifest (last) and ``failures.parquet``, which is empty when nothing failed.

    Raises
    ------
    IngestError
        If the files' names collide, the folder is not writable, or it holds a store and ``resume`` is not set.
    """
    store = Path(store)
    prepare_folder(store)
    kept = _finished_entries(store, resume=resume)
    remove_partials(store)
    joined = store.with_name(f"{store.name}_{STACKED}") if stack else None
    survey = survey_files(
        files, instrument=instrument, supplied=supplied, executor=executor, progress=progress, stack=joined
    )
    work = partial(_ingest_task, store=store, instrument=instrument, supplied=dict(supplied or {}), resume=resume)
    rows: list[dict[str, Any]] = []
    failures: list[Mapping[Any, Any]] = [*survey.failures.to_dict("records")]
    seconds = estimate_seconds(survey.n_pixels, 1)
    for outcome in executor.map(
        work, survey.tasks, describe="ingesting amplifiers", progress=progress, seconds=seconds
    ):
        if outcome.value is None:
            failures.append(failure_row(outcome.item.path, outcome.item.quadrant, outcome.error or ""))
        else:
            rows.append(outcome.value)
    fresh = {row["entry"] for row in rows}
    table = failure_table(failures)
    write_parquet(table, store / FAILURES)
    write_manifest(store, [*(row for row in kept if row["entry"] not in fresh), *rows])
    return IngestResult(read_manifest(store), table, survey.warnings, tuple(survey.instruments))


def used_entries(manifest: pd.DataFrame, files: Sequence[str | Path]) -> pd.DataFrame:
    """Rows of a manifest for the given files; a resumed store may hold other files."""
    return manifest[manifest["file"].isin({Path(file).name for file in files})]


def failed_tasks(reasons: Mapping[str, str], store: str | Path) -> pd.DataFrame:
    """Failures of an ingest by store entry, in the form of `IngestResult`."""
    rows = [{"file": entry, "path": str(store), "quadrant": None, "reason": why} for entry, why in reasons.items()]
    return failure_table(rows)


def write_failures(out: Path, *tables: pd.DataFrame) -> pd.DataFrame:
    """Write all failures of a command beside its results and return them in one table."""
    failures = pd.concat(tables, ignore_index=True)
    write_parquet(failures, out / FAILURES)
    return failures


def prepare_folder(folder: str | Path) -> Path:
    """Make an output folder and check that it is writable, before any work is done.

    Raises
    ------
    IngestError
        If it is not; the message gives the reason.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise IngestError(f"cannot write to output folder {folder}: {reason}; choose another with --out") from error
    return folder


def find_overlaps(infos: Iterable[FrameInfo]) -> list[str]:
    """Lines that name the files of one sequence and amplifier that hold the same rows."""
    spans = defaultdict(list)
    for info in infos:
        for quadrant, readout in info.readouts.items():
            if readout.first_row is not None and quadrant is not None:
                stop = readout.first_row + info.n_rows
                spans[readout.sequence, readout.ccd, quadrant].append((readout.first_row, stop, info.path))
    found: dict[str, None] = {}  # every quadrant of two overlapping files gives the same line
    for (sequence, ccd, _), entries in spans.items():
        where = f"sequence {sequence!r}, CCD {ccd}"
        (_, reach, farthest), *rest = sorted(entries)
        for start, stop, path in rest:
            if start < reach:
                rows = f"rows {start} to {min(stop, reach) - 1}"
                found[f"{farthest} and {path} both hold {rows} of {where}: events there count twice"] = None
            if stop > reach:
                reach, farthest = stop, path
    return list(found)


def find_truth(store: str | Path) -> Path:
    """Find the truth table of a store: in the store, or beside its simulated frames.

    Raises
    ------
    IngestError
        If there is none, or the frames come from folders with different tables.
    """
    sources = read_manifest(store)["source"].dropna()
    folders = [Path(store), *dict.fromkeys(Path(source).parent for source in sources)]
    found = [folder / TRUTH for folder in folders if (folder / TRUTH).is_file()]
    if len(found) != 1:
        where = (
            f"found {[str(path) for path in found]}" if found else f"looked in {[str(folder) for folder in folders]}"
        )
        raise IngestError(f"which truth table belongs to {store} is not clear ({where}); name it with --truth")
    return found[0]


def estimate_seconds(n_pixels: int, n_workers: int, pixels_per_second: float = INGEST_PIXELS_PER_SECOND) -> float:
    """Time that the work on a number of pixels takes."""
    return n_pixels / pixels_per_second / n_workers


def estimate_store_bytes(n_pixels: int) -> float:
    """Size of a store of a number of pixels."""
    return n_pixels * _STORE_BYTES_PER_PIXEL


def _ingest_task(
    task: AmplifierTask, *, store: Path, instrument: str | None, supplied: Mapping[str, str], resume: bool
) -> dict[str, Any]:
    ingest = alone(ingest_amplifier, task.path)
    return ingest(task.path, task.quadrant, store, instrument=instrument, supplied=supplied, resume=resume)


def describe_notes(notes: Iterable[tuple[Path, str]]) -> list[str]:
    """One line for each note, with the file that it is on, or the first of several and their number."""
    files: dict[str, list[Path]] = {}
    for path, note in notes:
        if path not in files.setdefault(note, []):
            files[note].append(path)
    return [
        f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: {note}" for note, paths in files.items()
    ]


def label_files(paths: Iterable[Path]) -> dict[Path, str]:
    """Name of every file in tables: its own, with as many folders before it as tell files of one name apart."""
    paths = list(dict.fromkeys(paths))
    labels, depth = {path: path.name for path in paths}, 1
    while depth < max((len(path.parts) for path in paths), default=0):
        counts = Counter(labels.values())
        shared = [path for path in paths if counts[labels[path]] > 1]
        if not shared:
            break
        depth += 1
        labels |= {path: "/".join(path.parts[-depth:]) for path in shared}
    return labels


def _read_alone(path: Path, *, instrument: str | None, supplied: Mapping[str, str], with_row_times: bool) -> FrameInfo:
    """Headers of a file; whatever goes wrong is its own failure and does not end the work on others."""
    info = alone(read_info, path)(path, instrument, supplied)
    if with_row_times:
        return info
    return replace(info, readouts={key: replace(one, row_times=None) for key, one in info.readouts.items()})


def list_files(files: Sequence[str | Path]) -> list[Path]:
    """Paths without repetition, the FITS files of a folder in its place."""
    if not files:
        raise IngestError("no input files were given")
    paths: dict[Path, None] = {}
    for path in map(Path, files):
        if not path.is_dir():
            if any(sign in str(path) for sign in "*?[") and not path.exists():
                raise IngestError(f"no file matches {path}")
            paths[path] = None
            continue
        found = sorted(
            file for file in path.iterdir() if file.is_file() and has_fits_name(file) and file.name[0] != "."
        )
        if not found:
            raise IngestError(f"folder {path} holds no FITS file")
        paths |= dict.fromkeys(found)
    return list(paths)


def _check_names(paths: Sequence[Path]) -> list[Path]:
    """Paths as they are; files that would become the same entries are refused."""
    by_stem: dict[str, Path] = {}
    for path in paths:
        other = by_stem.setdefault(frame_stem(path), path)
        if other != path:
            raise IngestError(f"{other} and {path} have the same name and would overwrite each other; rename one")
    return list(paths)


def _finished_entries(store: Path, *, resume: bool) -> list[dict[Any, Any]]:
    if not (store / MANIFEST).exists():
        return []
    if not resume:
        raise IngestError(f"{store} already holds a finished store; add to it with --resume or choose another --out")
    return read_manifest(store).to_dict("records")


def failure_row(path: Path, quadrant: int | None, reason: str) -> dict[str, Any]:
    """One row of a table of failures."""
    return {"file": path.name, "path": str(path), "quadrant": quadrant, "reason": reason}


def failure_table(failures: Iterable[Mapping[Any, Any]]) -> pd.DataFrame:
    """Table of failures (``file, path, quadrant, reason``), empty without any."""
    table = pd.DataFrame(list(failures), columns=list(_FAILURE_COLUMNS))
    return table.astype({"file": "string", "path": "string", "quadrant": "Int64", "reason": "string"})
