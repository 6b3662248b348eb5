"""Search one segment of rows, from FITS to scored triggers, and write its part to disk: the unit of work of a search.

A part is written under a temporary name and then moved as a whole to a name that depends on the segment alone. It holds
the fingerprints of its inputs and of its own files. A search that was killed at any time can be resumed, even after a
power cut that left files empty or short.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.astrometry.pointing import AmplifierSky, PointingError, read_sky
from shutterless.pipeline.calibration.exposure import calibrate_exposure, exposure_shape
from shutterless.pipeline.detection.threshold import NO_LIMIT, TriggerBudget
from shutterless.pipeline.files import hash_file, partial_path, replace_folder
from shutterless.pipeline.reading.cubes import Cube
from shutterless.pipeline.reading.exposures import read_exposure
from shutterless.pipeline.reading.fits_files import frame_stem
from shutterless.pipeline.reading.instruments import describe_instrument
from shutterless.pipeline.reading.readout import Readout, RowTimes
from shutterless.pipeline.reading.segments import FileSpan, Segment, Workspace, read_exposures
from shutterless.pipeline.results.file_places import ArchiveImages
from shutterless.pipeline.store.store import entry_name
from shutterless.pipeline.stored_files import StoredFileError, read_json
from shutterless.workflows.execution.retries import alone
from shutterless.workflows.searching.detect import Detector, find_triggers_for, load_once, score_triggers

PARTS = "parts"
_ABOUT = "segment.json"
_ENDS = 1 << 16  # bytes at either end of a file that enter its fingerprint, beside size and time of change
_NUMBERS = (
    "live_pixel_rows",
    "pixel_rows_per_hour",
    "n_columns",
    "psf_sigma_px",
    "n_streaks",
    "n_moving_streaks",
    "noise",
    "masked_fraction",
    "bad_columns",
    "n_cosmic_rays",
    "notes",
)


@dataclass(frozen=True)
class SegmentTask:
    """One segment, how its files are read, and the detector that searches it.

    ``out`` is the folder of the search, ``settings`` the fingerprint of everything that the segments share, ``budget``
    the most triggers that are judged.
    """

    segment: Segment
    out: Path
    detector: Detector
    threshold: float
    batch_size: int
    instrument: str | None
    supplied: Mapping[str, str]
    settings: str
    resume: bool = False
    budget: TriggerBudget = NO_LIMIT


@dataclass(frozen=True)
class ExposureRecord:
    """A search's record of rows without a gap: clocks, files, quality numbers, stars, and the images of a cube.

    ``sky`` is the pointing of its first file, or the reason why that is not known.
    """

    readout: Readout
    spans: tuple[FileSpan, ...]
    n_y: int
    numbers: Mapping[str, Any]
    streaks: pd.DataFrame
    archive: ArchiveImages | None = None
    sky: AmplifierSky | str = "its pointing was not read"


@dataclass(frozen=True)
class SearchedSegment:
    """A search's record of a segment.

    Parameters
    ----------
    segment : Segment
    exposures : tuple of ExposureRecord
    triggers : DataFrame
        Columns of `shutterless.workflows.searching.detect.detect` without ``entry``, and ``exposure``, the position in
        ``exposures``; rows are rows of the sequence.
    failures : tuple of (str, str)
        Path and reason of every file that could not be read in whole.
    content : str
        Fingerprint of the files' bytes, without the times at which they were changed.
    """

    segment: Segment
    exposures: tuple[ExposureRecord, ...]
    triggers: pd.DataFrame
    failures: tuple[tuple[str, str], ...]
    content: str


def search_segment(task: SegmentTask) -> bool:
    """Search one segment and write its part to disk.

    Whatever goes wrong is an error of this segment alone.

    Returns
    -------
    bool
        Whether the segment was searched; false if its part exists with the same inputs and settings.
    """
    return alone(_search_segment, task.segment.spans[0].path)(task)


def _search_segment(task: SegmentTask) -> bool:
    folder, made_from = part_folder(task.out, task.segment), _made_from(task)
    if task.resume and _is_current(folder, made_from):
        return False
    failures: list[tuple[Path, str]] = []
    parts: list[ExposureRecord] = []
    tables: list[pd.DataFrame] = []
    for amplifier, numbers, spans, archive in _amplifiers(task, failures):
        sky = _read_sky(task, spans[0].path)
        triggers, n_unmeasured = find_triggers_for(amplifier, (task.detector,), task.threshold, task.budget)
        triggers = score_triggers(amplifier, triggers, (task.detector,), task.batch_size, task.budget)
        passed_over = triggers.pop(column) if (column := f"{task.detector.name}/passed_over") in triggers else None
        n_unasked = 0 if passed_over is None else int(passed_over.sum())
        numbers |= {"n_unmeasured": n_unmeasured, "n_unasked": n_unasked}
        rows = ["row_start", "row_stop", "row_peak"]
        triggers[rows] += spans[0].first
        tables.append(triggers.assign(exposure=len(parts)))
        parts.append(ExposureRecord(amplifier.readout, spans, amplifier.n_y, numbers, amplifier.streaks, archive, sky))
    _write_part(folder, task.detector.name, made_from, parts, tables, failures)
    return True


def warm_up(detector: Detector, n_pixels: int = 0) -> None:
    """Load the detector, and allocate the memory of the largest segment.

    Parameters
    ----------
    detector : Detector
    n_pixels : int
        Of the largest segment; 0 allocates nothing. A worker with too little memory ends at once instead of hours
        later, and no segment waits for pages of memory.
    """
    if detector.folder is not None:
        load_once(detector.folder)
    for name in ("pixels", "residual"):
        _workspace().array(name, (n_pixels,), np.uint16).fill(0)


def part_folder(out: Path, segment: Segment) -> Path:
    """Folder of the part of a segment."""
    return Path(out) / PARTS / segment.name


def read_part(out: Path, segment: Segment) -> SearchedSegment | None:
    """Read the part of a segment; None if there is none."""
    folder = part_folder(out, segment)
    about = _read_about(folder)
    if about is None:
        return None
    failures = tuple(map(tuple, about["failures"]))
    return SearchedSegment(segment, *_read_tables(folder, about), failures, _content(about["made_from"]))


def read_parts(out: Path) -> Iterator[tuple[str, str, tuple[ExposureRecord, ...], pd.DataFrame]]:
    """Name of the segment, detector, exposures and triggers of every part of a search."""
    for folder in sorted((Path(out) / PARTS).glob("*")):
        about = _read_about(folder)
        if about is not None:
            yield folder.name, str(about["detector"]), *_read_tables(folder, about)


def by_span(
    exposures: Sequence[ExposureRecord], triggers: pd.DataFrame
) -> Iterator[tuple[int, FileSpan, pd.DataFrame]]:
    """Number of the exposure, span of a file, and those of the triggers of a part that peak in it, if there are any."""
    if triggers.empty:
        return
    number, peak = (triggers[name].to_numpy() for name in ("exposure", "row_peak"))
    for k, exposure in enumerate(exposures):
        for span in exposure.spans:
            here = (number == k) & (peak >= span.first) & (peak < span.last)
            if here.any():
                yield k, span, triggers if here.all() else triggers[here]


def in_file_rows(triggers: pd.DataFrame, span: FileSpan) -> pd.DataFrame:
    """Triggers with rows of the file of a span, where they had rows of its sequence."""
    shift = span.start - span.first
    if not shift:
        return triggers
    return triggers.assign(**{name: triggers[name] + shift for name in ("row_start", "row_stop", "row_peak")})


def _read_tables(folder: Path, about: Mapping[str, Any]) -> tuple[tuple[ExposureRecord, ...], pd.DataFrame]:
    """Exposures and triggers of a part."""
    streaks = _read_parquet(folder / "streaks.parquet")
    exposure_of = streaks.pop("exposure").to_numpy()
    exposures = []
    for position, exposure in enumerate(about["exposures"]):
        times = folder / f"row_times_{position}.npy"
        row_times = _StoredTimes(times) if times.is_file() else None
        readout = replace(Readout.from_dict(exposure["readout"]), row_times=row_times)
        here = exposure_of == position
        stars = streaks if here.all() else streaks[here].reset_index(drop=True)
        spans = tuple(FileSpan(Path(path), *rows) for path, *rows in exposure["spans"])
        archive = _read_archive(folder, position, exposure["archive"])
        sky = exposure.get("sky", "the part was searched before pointings were kept; search again without --resume")
        sky = sky if isinstance(sky, str) else AmplifierSky.from_dict(sky)
        exposures.append(ExposureRecord(readout, spans, exposure["n_y"], exposure["numbers"], stars, archive, sky))
    return tuple(exposures), _read_parquet(folder / "triggers.parquet")


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read a small table in half the time that `pandas.read_parquet` needs."""
    with pq.ParquetFile(path) as file:
        return file.read(use_threads=False).to_pandas(use_threads=False)


def find_name(out: Path, settings: str) -> str | None:
    """Name of the detector under which parts of a search were made with the same settings and weights, if any was."""
    for about in sorted((Path(out) / PARTS).glob(f"*/{_ABOUT}")):
        description = _read_about(about.parent)
        if description is not None and description["made_from"]["settings"] == settings:
            return str(description["detector"])
    return None


def _read_archive(folder: Path, position: int, about: Mapping[str, Any] | None) -> ArchiveImages | None:
    """What a part keeps of the images of a cube."""
    if about is None:
        return None
    return _StoredImages(folder / f"images_{position}.npy", **about)


class _StoredArrays:
    """Rows of an array on disk as attributes; read when they are asked for, since those of 10,000 parts fill memory."""

    _rows: tuple[str, ...]

    _path: Path

    def __init__(self, path: Path, **values: Any) -> None:
        self.__dict__.update(values, _path=path)

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in self._rows:
            raise AttributeError(f"{type(self).__name__} has no {name}")
        row: np.ndarray = np.load(self._path)[self._rows.index(name)]
        return row


class _StoredTimes(_StoredArrays, RowTimes):
    """Times of rows in a part."""

    _rows = ("seconds", "archive")


class _StoredImages(_StoredArrays, ArchiveImages):
    """What a part keeps of the images of a cube."""

    _rows = ("image", "cadence")


def _amplifiers(
    task: SegmentTask, failures: list[tuple[Path, str]]
) -> Iterator[tuple[Amplifier, dict[str, Any], tuple[FileSpan, ...], ArchiveImages | None]]:
    """Yield the calibrated amplifiers of a segment, each without a gap, with quality numbers, spans and images."""
    workspace = _workspace()
    for exposure, spans in _exposures(task, workspace, failures):
        residual = workspace.array("residual", exposure_shape(exposure), np.float16)
        calibrated = calibrate_exposure(exposure, residual)
        numbers = {name: calibrated.description[name] for name in _NUMBERS if name in calibrated.description}
        name = entry_name(frame_stem(spans[0].path), exposure.readout.ccd, task.segment.quadrant)
        archive = ArchiveImages.of(exposure) if isinstance(exposure, Cube) else None
        yield calibrated.amplifier(name), numbers, spans, archive


def _exposures(task: SegmentTask, workspace: Workspace, failures: list[tuple[Path, str]]) -> Iterator[tuple[Any, Any]]:
    if task.segment.quadrant is not None:
        for exposure in read_exposures(task.segment, workspace, task.instrument, dict(task.supplied), failures):
            yield exposure.frame, exposure.spans
        return
    (span,) = task.segment.spans
    yield read_exposure(span.path, None, task.instrument, task.supplied), (span,)


def _read_sky(task: SegmentTask, path: Path) -> AmplifierSky | str:
    """Pointing of an amplifier of a file, or the reason why it is not known."""
    if task.segment.quadrant is None:
        return "positions are known for continuous readout alone, not for image cubes"
    try:
        return read_sky(path, task.segment.quadrant, task.instrument, task.supplied)
    except PointingError as error:
        return str(error)


def _workspace() -> Workspace:
    """Memory of this thread, which searches one segment at a time."""
    if not hasattr(_of_thread, "workspace"):
        _of_thread.workspace = Workspace()
    return _of_thread.workspace


_of_thread = threading.local()


def _write_part(
    folder: Path,
    detector: str,
    made_from: Mapping[str, Any],
    parts: list[ExposureRecord],
    tables: list[pd.DataFrame],
    failures: list[tuple[Path, str]],
) -> None:
    """Write a part whole or not at all."""
    partial = partial_path(folder)
    partial.mkdir(parents=True)
    try:
        for position, part in enumerate(parts):
            if part.readout.row_times is not None:
                times = part.readout.row_times
                np.save(partial / f"row_times_{position}.npy", np.stack([times.seconds, times.archive]))
            if part.archive is not None:
                np.save(partial / f"images_{position}.npy", np.stack([part.archive.image, part.archive.cadence]))
        streaks = [part.streaks.assign(exposure=position) for position, part in enumerate(parts)]
        _concat(streaks).to_parquet(partial / "streaks.parquet")
        _concat(tables).to_parquet(partial / "triggers.parquet")
        about = {
            "made_from": made_from,
            "detector": detector,
            "files": _hash_files(partial),
            "failures": [[str(path), reason] for path, reason in failures],
            "exposures": [
                {
                    "readout": part.readout.to_dict(),
                    "spans": [[str(p.path), p.start, p.stop, p.first] for p in part.spans],
                    "n_y": part.n_y,
                    "numbers": part.numbers,
                    "archive": part.archive and part.archive.names(),
                    "sky": part.sky if isinstance(part.sky, str) else part.sky.to_dict(),
                }
                for part in parts
            ],
        }
        about = json.loads(json.dumps(about))  # as it will be read: keys are text, tuples are lists
        (partial / _ABOUT).write_text(json.dumps({**about, "hash": hash_plain(about)}))
        replace_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _concat(tables: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"exposure": pd.Series(dtype="int64")})


def _made_from(task: SegmentTask) -> dict[str, Any]:
    """Inputs of a part: rows, settings, and of each file the size, a hash of its ends, and the time of change."""
    segment = task.segment
    return {
        "quadrant": segment.quadrant,
        "own": list(segment.own),
        "settings": task.settings,
        "spans": [[span.path.name, span.start, span.stop, span.first] for span in segment.spans],
        "files": [fingerprint_file(span.path) for span in segment.spans],
    }


def _is_current(folder: Path, made_from: Mapping[str, Any]) -> bool:
    """Whether a finished part was made from the same inputs. A file that is gone since counts as unchanged.

    A part with failures counts as different, because the failed files may be readable by now.
    """
    about = _read_about(folder)
    if about is None:
        return False
    before = about["made_from"]
    same = all(before[name] == made_from[name] for name in ("quadrant", "own", "settings", "spans"))
    files = zip(before["files"], made_from["files"], strict=True) if same else ()
    return same and not about["failures"] and all(now in (None, then) for then, now in files)


def part_hash(out: Path, name: str) -> str | None:
    """Hash of a part by the name of its segment; None if there is none, or it is not whole."""
    about = _read_about(Path(out) / PARTS / name)
    return None if about is None else hash_plain(about)


def _read_about(folder: Path) -> dict[str, Any] | None:
    """Description of a part; None if there is no part, or a power cut or anyone else changed it."""
    try:
        about = read_json(folder / _ABOUT)
    except (FileNotFoundError, StoredFileError):
        return None
    is_whole = about.pop("hash", None) == hash_plain(about)
    return about if is_whole and about["files"] == _hash_files(folder) else None


def hash_plain(values: Any) -> str:
    """Hash of plain values, whatever the order of their keys."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()


def _hash_files(folder: Path) -> dict[str, str]:
    """Hash of every file of a part but `_ABOUT`."""
    files = sorted(path for path in folder.iterdir() if path.name != _ABOUT)
    return {path.name: hash_file(path).hexdigest() for path in files}


def fingerprint_file(path: Path) -> list[Any] | None:
    """Size, hash of the bytes at both ends and time of change of a file, None if it cannot be read."""
    try:
        status = path.stat()
        with path.open("rb") as file:
            head = file.read(_ENDS)
            file.seek(max(status.st_size - _ENDS, 0))
            ends = hashlib.blake2b(head + file.read(), digest_size=16).hexdigest()
    except OSError:
        return None
    return [status.st_size, ends, status.st_mtime_ns]


def _content(made_from: Mapping[str, Any]) -> str:
    """Hash of the inputs of a part, without the times at which files changed."""
    files = [file and file[:2] for file in made_from["files"]]
    return hash_plain({**made_from, "files": files})


def settings_fingerprint(
    detector: Detector,
    threshold: float,
    batch_size: int,
    instrument: str | None,
    supplied: Mapping[str, str],
    budget: TriggerBudget = NO_LIMIT,
) -> str:
    """Fingerprint of what the segments of a search share: the detector's bytes, settings, instrument and version."""
    digest = hashlib.blake2b(digest_size=16)
    if detector.folder is not None:
        for file in sorted(Path(detector.folder).rglob("*")):
            if file.name == "config.json" or file.suffix == ".safetensors":  # all that decides a score
                digest.update(file.relative_to(detector.folder).as_posix().encode() + file.read_bytes())
    profile = describe_instrument(instrument)
    most = [budget.measured_per_second, budget.asked_per_second]
    settings = [threshold, batch_size, most, profile, dict(supplied), version("shutterless")]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()
