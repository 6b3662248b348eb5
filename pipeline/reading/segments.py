"""Cut sequences of files into segments of rows, so that memory is bounded and no event is lost at a border.

The rows of one amplifier in one uninterrupted sequence are one time series, in one file or several. It is searched in
segments with a core of 96 s or more and margins of 7 s on either side (`SegmentRows`), across the borders of files.
Cores begin at fixed rows of the sequence, so that a file that arrives later changes only the last ones. A segment
reports the events that peak in its core.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.reading.fits_files import FrameError, frame_stem
from shutterless.pipeline.reading.frames import AmplifierRows, Frame, FrameInfo, check_varies, open_amplifier_rows
from shutterless.pipeline.reading.readout import Readout

# 7 × 4,096 rows of ZTF: the margins cost a seventh of the time, and two arrays of an amplifier fill 400 MB. Where rows
# are slow a core holds as many, since few rows measure stars badly. Where they are fast it lasts as long, since the
# scatter of a star is measured in its longest boxes (at 1,000 rows/s and 29 s, 24 false alarms above 6.5 sigma; at 94 s
# 4), unless the amplifier is so wide that this takes more memory
CORE_ROWS, CORE_S, MOST_CORE_PIXELS = 28_672, 28_672 / 300, 28_672 * 3072
MARGIN_S = 2048 / 300  # twice the longest box of the template bank
MIN_MARGIN_BLOCKS = 2  # where rows are slow: the smear of the point-spread function, and rows of noise beside it
_CORE_UNIT = 4096
_SHORT = 8  # a core with fewer than this part of its rows is joined to its neighbour


class SegmentRows(NamedTuple):
    """How an amplifier is cut: rows of a core, and of the margin on either side, in whole blocks."""

    core: int
    margin: int

    @classmethod
    def of(cls, readout: Readout, n_columns: int) -> SegmentRows:
        """Rows for an amplifier of so many columns."""
        core = max(CORE_ROWS, min(readout.rows_of(CORE_S), MOST_CORE_PIXELS // n_columns))
        margin = max(-(-readout.rows_of(MARGIN_S) // BLOCK_ROWS), MIN_MARGIN_BLOCKS)
        return cls(core // _CORE_UNIT * _CORE_UNIT, margin * BLOCK_ROWS)

    @property
    def least(self) -> int:
        """Rows below which a core is joined to its neighbour."""
        return self.core // _SHORT

    @property
    def longest(self) -> int:
        """Most rows of a segment."""
        return self.core + 2 * (self.margin + self.least)


@dataclass(frozen=True)
class FileSpan:
    """Rows ``start`` to ``stop`` of one file; ``start`` is row ``first`` of its sequence."""

    path: Path
    start: int
    stop: int
    first: int

    @property
    def last(self) -> int:
        """First row of the sequence after the span."""
        return self.first + self.stop - self.start

    def within(self, start: int, stop: int) -> FileSpan | None:
        """Part of the span in rows ``start`` to ``stop`` of the sequence, None if there is none."""
        first, last = max(self.first, start), min(self.last, stop)
        if first >= last:
            return None
        begin = self.start + first - self.first
        return FileSpan(self.path, begin, begin + last - first, first)


@dataclass(frozen=True)
class Segment:
    """One unit of work: rows of one amplifier that are calibrated and searched together.

    Parameters
    ----------
    series : str
        Name of the time series.
    quadrant : int or None
        None for an image cube, whose segment is the whole file.
    spans : tuple of FileSpan
        In the order of their rows; rows may be missing between them.
    own : (int, int)
        Half-open range of sequence rows whose events this segment reports.
    """

    series: str
    quadrant: int | None
    spans: tuple[FileSpan, ...]
    own: tuple[int, int]

    @property
    def name(self) -> str:
        """Name that is unique among the segments of one plan and does not depend on other sequences."""
        return f"{self.series}_r{self.own[0]:09d}"

    @property
    def n_rows(self) -> int:
        """Rows that are read."""
        return sum(span.stop - span.start for span in self.spans)


@dataclass(frozen=True)
class SegmentExposure:
    """Rows of a segment without a gap, in memory, and the spans from which they were read."""

    frame: Frame
    spans: tuple[FileSpan, ...]

    @property
    def first(self) -> int:
        """Row of the sequence at which the exposure begins."""
        return self.spans[0].first


@dataclass(frozen=True)
class _Series:
    """Key of a time series; files with equal keys (sequence, clocks and electronics) belong to one series."""

    label: str
    quadrant: int | None
    identity: str
    rows: SegmentRows
    copy: int = 0  # number of the copy, if several files hold the same rows

    @property
    def name(self) -> str:
        digest = hashlib.blake2b(f"{self.identity} {self.copy}".encode(), digest_size=4).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9._-]', '-', self.label)}_q{self.quadrant or 0}_{digest}"


def plan_segments(infos: Iterable[FrameInfo]) -> list[Segment]:
    """Cut the amplifiers of some files into segments.

    Parameters
    ----------
    infos : iterable of FrameInfo
        From `shutterless.pipeline.reading.exposures.read_info`. Files whose readouts differ only in first row and
        seeing are joined. A file without ``first_row`` is a series by itself.

    Returns
    -------
    list of Segment
        Series by series in the order of their rows; the order of the files does not matter.
    """
    series: dict[_Series, list[FileSpan]] = {}
    for info in sorted(infos, key=lambda info: (_first_row(info), str(info.path))):
        for quadrant, readout in info.readouts.items():
            span = FileSpan(info.path.absolute(), 0, info.n_rows, readout.first_row or 0)
            series.setdefault(_find_series(info, quadrant, readout, span, series), []).append(span)
    return [segment for key, spans in series.items() for segment in _cut(key.name, key.quadrant, spans, key.rows)]


def cut_file(path: Path, quadrant: int, n_rows: int, rows: SegmentRows) -> list[Segment]:
    """Cut one amplifier of a single file into segments; rows count from its first, and segments begin at blocks."""
    return list(_cut(frame_stem(path), quadrant, [FileSpan(path, 0, n_rows, 0)], rows))


def _first_row(info: FrameInfo) -> int:
    return min(readout.first_row or 0 for readout in info.readouts.values())


def _find_series(
    info: FrameInfo, quadrant: int | None, readout: Readout, span: FileSpan, known: dict[_Series, list[FileSpan]]
) -> _Series:
    """Time series to which the rows of a file are added, or a new one."""
    rows = SegmentRows.of(readout, info.n_columns)
    if quadrant is None or readout.first_row is None:
        return _Series(frame_stem(info.path), quadrant, str(info.path.resolve()), rows)
    same = {**readout.to_dict(), "first_row": 0, "seeing_arcsec": 0}
    label = f"{readout.sequence}_c{readout.ccd or 0:02d}"
    series = _Series(label, quadrant, json.dumps([info.profile.name, same], sort_keys=True, default=str), rows)
    while series in known and known[series][-1].last > span.first:
        series = _Series(label, quadrant, series.identity, rows, series.copy + 1)
    return series


def _cut(name: str, quadrant: int | None, spans: Sequence[FileSpan], rows: SegmentRows) -> Iterator[Segment]:
    """Cut the spans of one time series into segments; an image cube stays whole."""
    if quadrant is None:
        yield Segment(name, None, tuple(spans), (spans[0].first, spans[-1].last))
        return
    firsts, lasts = [span.first for span in spans], [span.last for span in spans]  # both rise
    for start, stop in _cores(spans, rows):
        near = spans[bisect_right(lasts, start - rows.margin) : bisect_left(firsts, stop + rows.margin)]
        window = [span.within(start - rows.margin, stop + rows.margin) for span in near]
        yield Segment(name, quadrant, tuple(span for span in window if span is not None), (start, stop))


def _cores(spans: Sequence[FileSpan], rows: SegmentRows) -> list[tuple[int, int]]:
    """Half-open ranges of sequence rows, a core each; one with too few rows joins a neighbour that has room."""
    n_rows: dict[int, int] = {}
    for span in spans:
        for k in range(span.first // rows.core, (span.last - 1) // rows.core + 1):
            part = span.within(k * rows.core, (k + 1) * rows.core)
            n_rows[k] = n_rows.get(k, 0) + (part.stop - part.start if part else 0)
    cores: list[list[int]] = []  # first and last number k of each core, and its rows
    for k in sorted(n_rows):
        follows = bool(cores) and cores[-1][1] == k - 1
        is_short = follows and min(n_rows[k], cores[-1][2]) < rows.least
        # in a sequence with gaps many cores in turn may be short
        if is_short and cores[-1][2] + n_rows[k] <= rows.core + 2 * rows.least:
            cores[-1][1:] = k, cores[-1][2] + n_rows[k]
        else:
            cores.append([k, k, n_rows[k]])
    return [(first * rows.core, (last + 1) * rows.core) for first, last, _ in cores]


class Workspace:
    """Memory that is reused for one segment after the other, so that no time goes into new pages.

    There is one in a process, and the next segment overwrites its contents.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
        """Return an uninitialised array, which the next one of the same name overwrites."""
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if name not in self._arrays or self._arrays[name].nbytes < n_bytes:
            self._arrays.pop(name, None)  # before the larger one is made
            self._arrays[name] = np.empty(n_bytes, dtype=np.uint8)
        return self._arrays[name][:n_bytes].view(dtype).reshape(shape)


def read_exposures(
    segment: Segment,
    workspace: Workspace,
    instrument: str | None = None,
    supplied: dict[str, str] | None = None,
    failures: list[tuple[Path, str]] | None = None,
) -> Iterator[SegmentExposure]:
    """Read the spans of a segment; those that follow each other without a gap become one frame.

    Parameters
    ----------
    segment : Segment
        Of continuous readout.
    workspace : Workspace
        Holds the pixels; finish with an exposure before you take the next.
    instrument, supplied
        As `shutterless.pipeline.reading.frames.read_frame_info`.
    failures : list of (Path, str), optional
        Receives file and reason of every span that cannot be read, which leaves a gap. Without a list the error is
        raised.

    Yields
    ------
    SegmentExposure

    Raises
    ------
    FrameError
        If a span cannot be read and ``failures`` is None.
    """
    waiting: list[FileSpan] = list(segment.spans)
    while waiting:
        exposure, waiting = _split_at_gap(waiting)
        yield from _read_exposure(exposure, segment, workspace, instrument, supplied, failures)


def _split_at_gap(spans: list[FileSpan]) -> tuple[list[FileSpan], list[FileSpan]]:
    n = 1
    while n < len(spans) and spans[n].first == spans[n - 1].last:
        n += 1
    return spans[:n], spans[n:]


def _read_exposure(
    spans: list[FileSpan],
    segment: Segment,
    workspace: Workspace,
    instrument: str | None,
    supplied: dict[str, str] | None,
    failures: list[tuple[Path, str]] | None,
) -> Iterator[SegmentExposure]:
    """Read all spans as one frame, or as one frame on either side of a span that cannot be read."""
    assert segment.quadrant is not None, "stacks of images are not read in rows"
    filling = _Filling(workspace, sum(span.stop - span.start for span in spans))
    for span in spans:
        try:
            with open_amplifier_rows(span.path, segment.quadrant, instrument, supplied) as rows:
                filling.add(rows, span)
        except (FrameError, OSError) as error:
            if failures is None:
                raise
            failures.append((span.path, f"{type(error).__name__}: {' '.join(str(error).split())}"))
            yield from filling.take()
    yield from filling.take()


class _Filling:
    """An exposure that is filled span by span."""

    def __init__(self, workspace: Workspace, n_rows: int) -> None:
        self._workspace, self._n_rows = workspace, n_rows
        self._begin()

    def _begin(self) -> None:
        self._filled = 0
        self._opened: list[AmplifierRows] = []
        self._spans: list[FileSpan] = []
        self._overscans: list[np.ndarray] = []

    def add(self, rows: AmplifierRows, span: FileSpan) -> None:
        """Read a span behind those before it; if this fails nothing is added."""
        if not self._spans:
            self._pixels = self._workspace.array("pixels", (self._n_rows, rows.pixels.n_columns), rows.pixels.dtype)
        n_rows = span.stop - span.start
        overscan = _read_span(rows, span, self._pixels[self._filled : self._filled + n_rows])
        self._filled += n_rows
        self._opened.append(rows)
        self._spans.append(span)
        self._overscans.append(overscan)

    def take(self) -> Iterator[SegmentExposure]:
        """Yield the exposure if it holds rows, and begin another."""
        if self._spans:
            first, start = self._opened[0], self._spans[0].start
            readout = first.readout.from_row(start, start + self._filled)
            pixels, overscan = self._pixels[: self._filled], np.concatenate(self._overscans)
            notes = tuple(dict.fromkeys(note for rows in self._opened for note in rows.notes))
            frame = Frame(pixels, overscan, readout, first.profile, first.path, notes)
            yield SegmentExposure(frame, tuple(self._spans))
        self._begin()


def _read_span(rows: AmplifierRows, span: FileSpan, out: np.ndarray) -> np.ndarray:
    """Fill ``out`` with the rows of a span; return their overscan."""
    if rows.n_rows < span.stop:
        raise FrameError(f"{span.path}: {rows.n_rows} rows, where there were {span.stop} before; did it change?")
    if rows.pixels.dtype != out.dtype:
        raise FrameError(f"{span.path} holds {rows.pixels.dtype} pixels, the files before it {out.dtype}")
    overscan = rows.read(span.start, out)
    check_varies(out, f"{span.path}: quadrant {rows.readout.quadrant}")
    return overscan
