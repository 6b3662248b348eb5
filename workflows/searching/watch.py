"""Search files as they arrive: `shutterless watch DIR`.

A file is taken once it has not changed for a while and its headers show that it is complete. It is joined to its
sequence, and only the segments with new rows are searched (again). ``watch.json`` keeps the headers of every file, so
that a restart reads no header twice and a file that was removed after its search keeps its candidates.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from shutterless.pipeline.files import write_text
from shutterless.pipeline.reading.exposures import read_info
from shutterless.pipeline.reading.fits_files import has_fits_name
from shutterless.pipeline.reading.frames import FrameInfo
from shutterless.pipeline.reading.instruments import QuadrantLayout, load_profile
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.reading.segments import Segment, plan_segments
from shutterless.workflows.execution.cluster import EXPECTED_ERRORS, Executor, describe_error
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.frames.ingest import failure_row, failure_table
from shutterless.workflows.searching.search import SearchJob, lost_rows, run_tasks
from shutterless.workflows.searching.segment_search import SearchedSegment, warm_up

STATE = "watch.json"
SETTLE_S = 5.0  # without change after which a file is taken to be complete
EVERY_S = 2.0
GIVE_UP_S = 600.0  # without change after which an incomplete file is listed as a failure


class WatchError(ValueError):
    """A folder that cannot be watched."""


@dataclass(frozen=True)
class Pass:
    """Result of one look at the folder.

    Parameters
    ----------
    arrived, given_up : list of str
        Names of files that were taken, and of those that were never finished.
    n_new, n_candidates : int
        New candidates, and all candidates.
    lag_s : float
        Seconds from the read of the newest row that was searched to the end of the search; NaN where no UTC is known.
    n_failures : int
        Files so far that could not be read in whole.
    n_alerts : int
        Alerts that were written.
    """

    arrived: list[str]
    given_up: list[str]
    n_new: int
    n_candidates: int
    lag_s: float
    n_failures: int
    n_alerts: int = 0


@dataclass
class _Waiting:
    """A file that is not taken yet: its size and time of change, since when, and why it was incomplete."""

    look: tuple[int, int]
    since_s: float
    reason: str = ""


@dataclass
class Watcher:
    """Keep the candidates of a folder's files up to date.

    Parameters
    ----------
    folder : Path
    job : SearchJob
    executor : Executor
    progress : Progress, optional
    settle_s, give_up_s : float
        Seconds without change after which a file is read, and after which it is given up.
    clock : callable
        Returns seconds since 1970; set in tests.
    announce : callable, optional
        Gets all candidates after a search and returns how many alerts it wrote; after a restart it gets them again.
    """

    folder: Path
    job: SearchJob
    executor: Executor
    progress: Progress | None = None
    settle_s: float = SETTLE_S
    give_up_s: float = GIVE_UP_S
    clock: Callable[[], float] = time.time
    announce: Callable[[pd.DataFrame], int] | None = None
    _known: dict[Path, tuple[tuple[int, int], FrameInfo]] = field(default_factory=dict)
    _waiting: dict[Path, _Waiting] = field(default_factory=dict)
    _searched: dict[str, tuple[Segment, SearchedSegment | None]] = field(default_factory=dict)
    _lost: dict[str, str] = field(default_factory=dict)
    _ids: set[str] = field(default_factory=set)
    _listed: set[Path] = field(default_factory=set)  # given-up files that were listed

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if not self.folder.is_dir():
            raise WatchError(f"{self.folder} is not a folder that could be watched")
        if self.job.curve is None:
            raise WatchError("the first file is too short to tell a threshold; evaluate the model, or use `search`")
        if self.job.instrument is not None:
            load_profile(self.job.instrument)  # wrong for one file is wrong for all
        self.job = self.job.under_its_first_name()
        self._known = dict(_read_state(self.job))
        self.executor.prepare(partial(warm_up, self.job.detector))

    def look(self) -> Pass | None:
        """Take and search the files that have arrived; None if there are none and no file was given up."""
        arrived = self._take()
        given_up = {path for path, waiting in self._waiting.items() if self._is_given_up(waiting)}
        newly, self._listed = given_up - self._listed, given_up
        if not arrived and not newly and (self._searched or not self._known):
            return None
        segments = plan_segments(info for _, info in self._known.values())
        self._search(segments, {path.absolute() for path in arrived})
        parts = [part for s in segments if (part := self._searched.get(s.name, (s, None))[1]) is not None]
        failures = pd.concat([self._unreadable(), lost_rows(segments, parts, self._lost)], ignore_index=True)
        candidates, *_ = self.job.write(parts, failures, [info for _, info in self._known.values()])
        _write_state(self.job, self._known)
        n_alerts = 0 if self.announce is None else self.announce(candidates)
        ids = set(candidates["candidate_id"])
        n_new, self._ids = len(ids - self._ids), ids
        names, lost = [path.name for path in arrived], sorted(path.name for path in newly)
        return Pass(names, lost, n_new, len(candidates), self._lag_s(), failures["file"].nunique(), n_alerts)

    @property
    def n_waiting(self) -> int:
        """Files that may still be completed."""
        return sum(not self._is_given_up(waiting) for waiting in self._waiting.values())

    def _take(self) -> list[Path]:
        """Files that were completed since the last look."""
        arrived = []
        present = dict(_list_frames(self.folder))
        for path in [path for path in self._waiting if path not in present]:
            del self._waiting[path]
        for path, look in present.items():
            if path in self._known and self._known[path][0] == look:
                continue
            waiting = self._waiting.get(path)
            if waiting is None or waiting.look != look:
                waiting = self._waiting[path] = _Waiting(look, self.clock())
            changed_s = max(waiting.since_s, look[1] / 1e9)
            if self.clock() - changed_s < self.settle_s and not self._is_old(look):
                continue
            if waiting.reason:
                continue  # unchanged since it was found incomplete
            try:
                info = read_info(path, self.job.instrument, self.job.supplied)
            except EXPECTED_ERRORS as error:
                waiting.reason = describe_error(error)
                continue
            self._known[path] = look, info
            del self._waiting[path]
            arrived.append(path)
        return arrived

    def _is_old(self, look: tuple[int, int]) -> bool:
        """Whether a file was last changed long before it was first listed, so that nobody is writing it."""
        return self.clock() - look[1] / 1e9 > self.settle_s

    def _is_given_up(self, waiting: _Waiting) -> bool:
        return bool(waiting.reason) and self.clock() - waiting.since_s > self.give_up_s

    def _unreadable(self) -> pd.DataFrame:
        """Files that were given up, and amplifiers that cannot be read according to the headers."""
        rows = [failure_row(path, None, self._waiting[path].reason) for path in sorted(self._listed)]
        for path, (_, info) in self._known.items():
            rows += [failure_row(path, quadrant, f"FrameError: {why}") for quadrant, why in info.skipped.items()]
        return failure_table(rows)

    def _search(self, segments: list[Segment], arrived: set[Path]) -> None:
        """Search the segments that changed: those with other rows, or with a file that was written again."""
        fresh = [
            s
            for s in segments
            if self._searched.get(s.name, (None, None))[0] != s
            or s.name in self._lost
            or any(span.path in arrived for span in s.spans)
        ]
        for segment in fresh:
            self._lost.pop(segment.name, None)
        parts, lost = run_tasks(self.job.tasks(fresh, resume=True), self.executor, self.progress)
        self._lost |= lost
        for segment in fresh:
            self._searched[segment.name] = segment, parts.get(segment.name)

    def _lag_s(self) -> float:
        """Seconds since the newest row of all files was read; NaN if no file has a UTC."""
        newest = [_last_read(info) for _, info in self._known.values()]
        read = max((utc for utc in newest if utc), default="")
        if not read:
            return float("nan")
        return self.clock() - datetime.fromisoformat(read).replace(tzinfo=UTC).timestamp()


def watch_folder(
    watcher: Watcher,
    write_line: Callable[[str], None],
    *,
    every_s: float = EVERY_S,
    stop_after_s: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Look at the folder repeatedly until interrupted, and print what was found.

    Parameters
    ----------
    watcher : Watcher
    write_line : callable
        Gets one line after every look that led to a search.
    every_s : float
        Seconds between two looks.
    stop_after_s : float, optional
        Stop when nothing has arrived for this time.
    sleep : callable
        Waits for a number of seconds; set in tests.

    Returns
    -------
    int
        Files that could not be read in whole.
    """
    idle_since, n_failures = watcher.clock(), 0
    try:
        while True:
            found = watcher.look()
            if found is not None:
                write_line(describe_pass(found))
                n_failures = found.n_failures
                if found.arrived or not found.given_up:
                    idle_since = watcher.clock()
            elif stop_after_s is not None and watcher.clock() - idle_since >= stop_after_s:
                return n_failures + watcher.n_waiting
            sleep(every_s)
    except KeyboardInterrupt:
        write_line("stopped; the same command goes on from here")
        return n_failures


def describe_pass(found: Pass) -> str:
    """One line on a look: files that arrived, new candidates, and the delay behind the sky."""
    given_up = f"gave up {_join_names(found.given_up)}" if found.given_up else ""
    arrived = _join_names(found.arrived)
    what = ", ".join(filter(None, (arrived, given_up))) or "what was there before"
    behind = "no UTC known" if found.lag_s != found.lag_s else f"{found.lag_s:,.1f} s behind the sky"
    failed = f", {found.n_failures} files failed" if found.n_failures else ""
    alerts = f", {found.n_alerts} alerts" if found.n_alerts else ""
    return f"{what}: {found.n_new} new candidates, {found.n_candidates} in all{alerts}; {behind}{failed}"


def _join_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _list_frames(folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Frames of a folder, by name, with size and time of change (ns); hidden files are still being written."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if has_fits_name(entry.name) and entry.name[0] != ".")
    for name in names:
        path = folder / name
        try:
            status = path.stat()
        except OSError:
            continue  # removed since it was listed
        if path.is_file():
            yield path, (status.st_size, status.st_mtime_ns)


def _last_read(info: FrameInfo) -> str:
    """UTC at which the last row of a file was read, empty where unknown."""
    readout = next(iter(info.readouts.values()))
    return str(readout.read_utc(info.n_rows - 1)[0])


def _write_state(job: SearchJob, known: Mapping[Path, tuple[tuple[int, int], FrameInfo]]) -> None:
    files = {
        str(path): {
            "look": list(look),
            "profile": job.instrument or info.profile.name,
            "n_rows": info.n_rows,
            "n_columns": info.n_columns,
            "n_y": info.n_y,
            "readouts": [[quadrant, readout.to_dict()] for quadrant, readout in info.readouts.items()],
            "skipped": [[quadrant, reason] for quadrant, reason in info.skipped.items()],
            "layouts": [asdict(layout) for layout in info.layouts],
        }
        for path, (look, info) in known.items()
    }
    write_text(job.out / STATE, json.dumps(files))


def _read_state(job: SearchJob) -> Iterable[tuple[Path, tuple[tuple[int, int], FrameInfo]]]:
    """Files of the last watch, with their headers."""
    path = job.out / STATE
    files: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, file in files.items():
        info = FrameInfo(
            path=Path(name),
            profile=load_profile(file["profile"]),
            n_rows=file["n_rows"],
            readouts={quadrant: Readout.from_dict(readout) for quadrant, readout in file["readouts"]},
            skipped=dict(file["skipped"]),
            n_columns=file["n_columns"],
            n_y=file["n_y"],
            layouts=tuple(QuadrantLayout(**layout) for layout in file.get("layouts", ())),
        )
        size, changed_ns = file["look"]
        yield Path(name), ((size, changed_ns), info)
