"""Lay out the frames of a cube on a regular grid of cadences, with the observer's time of every row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.time import Time

from shutterless.pipeline.reading.fits_files import FrameError
from shutterless.pipeline.reading.readout import RowTimes

DAY_S = 86_400.0
LARGEST_SEGMENT, LARGEST_UNASKED = 100, 1_000_000  # rows for every frame, and rows that are always allowed
_SLOPE_FRAMES = 100  # fewer give no slope, as corrections are 32-bit floats of 40 µs; more bend with the Earth's orbit


@dataclass(frozen=True)
class FrameTimes:
    """Times of the frames of a file, in file order.

    Parameters
    ----------
    archive : ndarray of float64, shape (f,)
        Middle of each exposure in the archive's own unit and scale; NaN where unknown.
    cadence_s : float
        Seconds from frame to frame.
    cadence_keyword : str
        Header keyword of ``cadence_s``.
    numbers : ndarray of int64, shape (f,), optional
        Numbers of the cadences.
    correction : ndarray of float64, shape (f,), optional
        Correction that the archive added to the observer's clock, in its unit; NaN where unknown, but not everywhere.
    unit_s : float
        Seconds in the archive's unit.
    zero : Time, optional
        Observer's clock at which archive minus correction is 0. Values are added in its scale: UTC counts no leap
        seconds, other scales count them. None if no UTC is known.
    """

    archive: np.ndarray
    cadence_s: float
    cadence_keyword: str
    numbers: np.ndarray | None = None
    correction: np.ndarray | None = None
    unit_s: float = DAY_S
    zero: Time | None = None

    @property
    def known(self) -> np.ndarray:
        """Frames that have a time, bool, shape (f,)."""
        return np.isfinite(self.archive)

    @property
    def cadence_in_words(self) -> str:
        """Cadence and where it was read, for errors."""
        return f"a cadence ({self.cadence_keyword}) of {self.cadence_s:g} s"


@dataclass(frozen=True)
class CadenceGrid:
    """Rows of a cube: one for every cadence from the first frame to the last, even if the file lacks it.

    Parameters
    ----------
    rows : ndarray of int64, shape (f,)
        Row of each frame, rising from 0.
    n_rows : int
    row_times : RowTimes
        Of every row.
    first_row_utc : str or None
        UTC of row 0 (ISO 8601, µs).
    """

    rows: np.ndarray
    n_rows: int
    row_times: RowTimes
    first_row_utc: str | None


def lay_out_cadences(times: FrameTimes, path: Path) -> CadenceGrid:
    """Find the row of every frame, and the time of every row.

    Parameters
    ----------
    times : FrameTimes
    path : Path
        Named in errors.

    Raises
    ------
    FrameError
        If no frame has a time, times do not increase, two frames fall into one row, a time is more than half a cadence
        off, or there would be far more rows than frames.

    Notes
    -----
    Rows are the cadence numbers if these rise throughout, else whole cadences since the first time *on the observer's
    clock*. Barycentric time runs up to 1e-4 fast or slow, which is two cadences of 2 min in a month. Frames without a
    time then follow the one before. Missing times and corrections are interpolated linearly in the row number.
    """
    if not times.known.any() and times.numbers is not None and (np.diff(times.numbers) > 0).all():
        return _lay_out_numbers(times, path)
    _check_rising(times, path)
    clock_s = _observer_seconds(times)
    if times.numbers is not None and (np.diff(times.numbers) > 0).all():
        rows = _rows_by_number(times, times.numbers, clock_s, path)
    else:
        rows = _rows_by_time(times, clock_s, path)
    n_rows = _count_rows(times, rows, path)
    observed, archive = _fill_rows(times, rows, n_rows)
    seconds, first_row_utc = _read_clock(times, observed)
    return CadenceGrid(rows, n_rows, RowTimes(seconds, archive), first_row_utc)


def _count_rows(times: FrameTimes, rows: np.ndarray, path: Path) -> int:
    n_rows = int(rows[-1]) + 1
    if n_rows > max(LARGEST_SEGMENT * len(rows), LARGEST_UNASKED):
        raise FrameError(
            f"{path}: {len(rows)} frames span {n_rows} cadences of {times.cadence_s:g} s, more than "
            f"{LARGEST_SEGMENT} times as many; split the file at its gaps"
        )
    return n_rows


def _lay_out_numbers(times: FrameTimes, path: Path) -> CadenceGrid:
    """Rows by the numbers of cadences that have no time at all."""
    assert times.numbers is not None
    rows = times.numbers - times.numbers[0]
    n_rows = _count_rows(times, rows, path)
    row_times = RowTimes(np.arange(n_rows) * times.cadence_s, np.full(n_rows, np.nan))
    return CadenceGrid(rows, n_rows, row_times, None)


def _check_rising(times: FrameTimes, path: Path) -> None:
    frames = np.flatnonzero(times.known)
    if not frames.size:
        raise FrameError(f"{path}: none of its {len(times.archive)} frames has a time; it is NaN throughout")
    values = times.archive[frames]
    falls = np.flatnonzero(np.diff(values) <= 0)
    if falls.size:
        at = falls[0]
        raise FrameError(
            f"{path}: times do not increase: frame {frames[at]} has {values[at]!s}, frame {frames[at + 1]} has "
            f"{values[at + 1]!s}; sort the frames, or cut the file there"
        )


def _observer_seconds(times: FrameTimes) -> np.ndarray:
    """Seconds on the observer's clock since the first frame with a time, NaN where unknown, shape (f,)."""
    first = np.argmax(times.known)
    seconds = times.archive - times.archive[first]
    if times.correction is not None:
        known, frames = np.isfinite(times.correction), np.arange(len(seconds))
        correction = np.interp(frames, frames[known], times.correction[known])
        seconds = seconds - (correction - correction[first])
    return seconds * times.unit_s


def _rows_by_number(times: FrameTimes, numbers: np.ndarray, clock_s: np.ndarray, path: Path) -> np.ndarray:
    rows = numbers - numbers[0]
    frames = np.flatnonzero(times.known)
    steps_s, expected_s = np.diff(clock_s[frames]), np.diff(rows[frames]) * times.cadence_s
    off = np.flatnonzero(np.abs(steps_s - expected_s) > times.cadence_s / 2)
    if off.size:
        one, other = frames[off[0]], frames[off[0] + 1]
        raise FrameError(
            f"{path}: frames {one} and {other} are cadences {numbers[one]} and {numbers[other]}, "
            f"{expected_s[off[0]]:g} s apart at {times.cadence_in_words}, but their times {times.archive[one]!s} and "
            f"{times.archive[other]!s} are {steps_s[off[0]]:g} s apart; correct {times.cadence_keyword} with --set"
        )
    return rows


def _rows_by_time(times: FrameTimes, clock_s: np.ndarray, path: Path) -> np.ndarray:
    frames = np.arange(len(clock_s))
    before = np.maximum.accumulate(np.where(times.known, frames, -1))
    anchor = np.where(before < 0, np.argmax(times.known), before)
    rows = np.rint(clock_s[anchor] / times.cadence_s).astype(np.int64) + frames - anchor
    shared = np.flatnonzero(np.diff(rows) < 1)
    if shared.size:
        one, other = frames[shared[0]], frames[shared[0] + 1]
        raise FrameError(
            f"{path}: frames {one} and {other}, at {times.archive[one]!s} and {times.archive[other]!s}, fall into one "
            f"row at {times.cadence_in_words}; correct {times.cadence_keyword} with --set"
        )
    return rows - rows[0]


def _fill_rows(times: FrameTimes, rows: np.ndarray, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Observer's clock and archive's time of every row, in the archive's unit, both float64 of shape (t,)."""
    correction, known = np.zeros(n_rows), times.known
    if times.correction is not None:
        stated = np.isfinite(times.correction)
        correction = _fill(rows[stated], times.correction[stated], n_rows)
    observed = times.archive[known] - correction[rows[known]]
    observed = _fill(rows[known], observed, n_rows, step=times.cadence_s / times.unit_s)
    archive = observed + correction
    archive[rows[known]] = times.archive[known]
    return observed, archive


def _fill(rows: np.ndarray, values: np.ndarray, n_rows: int, step: float | None = None) -> np.ndarray:
    """Interpolate between known rows; extrapolate with the given step, or else with the slope at either end."""
    grid = np.arange(n_rows)
    ends = [slice(None, _SLOPE_FRAMES), slice(-_SLOPE_FRAMES, None)]
    slopes = [_mean_slope(rows[end], values[end]) if step is None else step for end in ends]
    beyond = np.minimum(grid - rows[0], 0) * slopes[0] + np.maximum(grid - rows[-1], 0) * slopes[1]
    return np.interp(grid, rows, values) + beyond


def _mean_slope(rows: np.ndarray, values: np.ndarray) -> float:
    return float((values[-1] - values[0]) / (rows[-1] - rows[0])) if len(rows) > 1 else 0.0


def _read_clock(times: FrameTimes, observed: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Seconds since row 0 on a uniform clock, shape (t,), and the UTC of row 0."""
    zero = times.zero
    if zero is None:
        return (observed - observed[0]) * times.unit_s, None
    days = observed * (times.unit_s / DAY_S)
    instants = Time(zero.jd1, zero.jd2 + days, format="jd", scale=zero.scale).tai
    first = Time(instants[0].utc, format="isot", precision=6)
    return np.asarray((instants - instants[0]).to_value("s")), str(first.value)
