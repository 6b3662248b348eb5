"""Read the column of times of a table, whatever it is called: numbers or dates, of 64 or of 32 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.time import Time

from shutterless.pipeline.reading.cube_times import DAY_S
from shutterless.pipeline.reading.headers.dates import DateError, find_scale, read_date

# other names than that of the profile, first to last; those that end in OBS or BEG hold the start of exposures
_NAMES = (
    *("MJD-AVG", "MJD_AVG", "MJD-MID", "MJD_MID", "MJD", "MJD-OBS", "MJD_OBS", "MJD-BEG", "JD", "JD_UTC", "JD-OBS"),
    *("DATE-AVG", "DATE_AVG", "DATE-OBS", "DATE_OBS", "DATE-BEG", "TIMESTAMP", "DATETIME", "UTC", "TIMES"),
)
_SAME_CADENCE = 0.02
_STARTS = ("OBS", "BEG")
_MOST_COARSE_S = 1e-3  # step of times that are taken as they are
_FEWEST_STEPS, _MOST_OFF_STEPS = 20, 1.5  # that tell the rate of a clock; between times and a straight line
_MOST_COARSE_ROWS = 0.4  # step in cadences, up to which times tell the rows


def choose_time_column(names: Sequence[str], wanted: str) -> str | None:
    """Column of times among the columns of a table, None if there is none."""
    by_name = {name.upper(): name for name in names}
    return next((by_name[name] for name in (wanted.upper(), *_NAMES) if name in by_name), None)


def holds_starts(name: str) -> bool:
    """Whether a column of this name holds the start of the exposures, not their middle."""
    return name.upper().endswith(_STARTS) and name.upper() in _NAMES


def unit_of_times(name: str, raw: np.ndarray, unit: str | None, cadence_s: float | None) -> str | None:
    """Unit of a column of times, None if nothing tells it.

    ``date`` for dates; days for day numbers, and for numbers without a unit whose steps are the cadence in days.
    """
    if raw.dtype.kind in "SU":
        return "date"
    if unit is not None:
        return unit
    if name.upper().startswith(("MJD", "JD")):
        return "d"
    steps = np.diff(raw.astype(np.float64))
    steps = steps[np.isfinite(steps) & (steps > 0)]
    is_days = cadence_s is not None and steps.size and abs(np.median(steps) * DAY_S / cadence_s - 1) < _SAME_CADENCE
    return "d" if is_days else None


def read_times(raw: np.ndarray, system: Any) -> np.ndarray:
    """Times as float64, shape (t,); dates as modified Julian dates in the scale ``system``, NaN for what is no date."""
    if raw.dtype.kind not in "SU":
        return raw.astype(np.float64)
    try:
        scale, add_s = find_scale(system)
    except DateError:
        scale, add_s, system = "utc", 0.0, "UTC"  # seconds between them are right in any scale
    texts = np.char.strip(np.char.decode(raw, "ascii", "replace") if raw.dtype.kind == "S" else raw)
    try:
        return np.asarray(Time(np.char.replace(texts, " ", "T"), format="isot", scale=scale).mjd, dtype=np.float64)
    except ValueError:  # some are of another form
        return np.array([_read_one(text, system, add_s) for text in texts])


def _read_one(text: str, system: Any, add_s: float) -> float:
    try:
        return float(read_date(text, system).mjd) - add_s / DAY_S
    except DateError:
        return float("nan")


def coarse_step(raw: np.ndarray) -> float:
    """Step between neighbouring numbers of 32 bits as large as these times, in their unit; 0 for those of 64 bits."""
    if raw.dtype.kind != "f" or raw.dtype.itemsize > 4 or not np.isfinite(raw).any():
        return 0.0
    return float(np.spacing(np.float32(np.nanmax(np.abs(raw)))))


def straighten_times(seconds: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Times of images in order, written to whole seconds or the like, on the straight line that all of them tell.

    Parameters
    ----------
    seconds : ndarray of float64, shape (t,)
        Rising; several images may have one time.

    Returns
    -------
    seconds : ndarray of float64, shape (t,)
        As they are if all differ, or if they are on no line.
    notes : tuple of str
    """
    steps = np.diff(seconds)
    if not (steps == 0).any() or not (steps > 0).any():
        return seconds, ()
    step, frames = float(steps[steps > 0].min()), np.arange(len(seconds))
    line = np.polyval(np.polyfit(frames, seconds, 1), frames)
    if np.abs(line - seconds).max() > step:
        return seconds, ()
    return line, (f"several images have one time, to {step:g} s: all are taken from a straight line, to that accuracy",)


def refine_times(
    archive: np.ndarray,
    correction: np.ndarray | None,
    numbers: np.ndarray | None,
    step: float,
    cadence: float,
    unit_s: float,
    what: str,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Times that 32 bits hold too coarsely, from the cadences that they belong to.

    Parameters
    ----------
    archive : ndarray of float64, shape (t,)
        NaN where unknown.
    correction : ndarray of float64, shape (t,), or None
        Added to the observer's clock, on which cadences are regular; in the unit of ``archive``.
    numbers : ndarray of int64, shape (t,), or None
        Of the cadences.
    step : float
        From `coarse_step`.
    cadence : float
        In the unit of ``archive``.
    unit_s : float
        Seconds in that unit.
    what : str
        Name of the column.

    Returns
    -------
    times : ndarray of float64, shape (t,)
        On a straight line with the cadences, whose error is that of the mean of all; as they are if they are exact
        enough or on no such line.
    notes : tuple of str
    """
    known = np.isfinite(archive)
    if step * unit_s <= _MOST_COARSE_S or np.count_nonzero(known) < 2:
        return archive, ()
    clock = archive if correction is None else archive - np.nan_to_num(correction)
    frames = np.arange(len(archive))
    if numbers is not None and (np.diff(numbers) > 0).all():
        rows = (numbers - numbers[0]).astype(np.float64)
    elif step < _MOST_COARSE_ROWS * cadence:
        first = int(np.argmax(known))
        steps = np.rint(np.diff(clock[known]) / cadence)
        rows = np.interp(frames, frames[known], first + np.concatenate([[0], np.cumsum(steps)]))
    else:
        rows = frames.astype(np.float64)
    coarse = f"column {what} holds numbers of 32 bits, in steps of {step * unit_s:.3g} s"
    n_steps = float(rows[-1]) * cadence / step
    line = cadence * rows
    if n_steps > _FEWEST_STEPS:  # else a slope would follow the steps
        line += np.polyval(np.polyfit(rows[known], clock[known] - clock[known][0] - line[known], 1), rows)
    line += float(np.mean(clock[known] - line[known]))
    if np.abs(line[known] - clock[known]).max() > _MOST_OFF_STEPS * step:
        return archive, (f"{coarse}, and is no more exact than that",)
    error_s = step * unit_s / 2 / np.sqrt(np.clip(n_steps, 1, len(archive)))
    times = line if correction is None else line + np.nan_to_num(correction)
    return np.where(known, times, np.nan), (f"{coarse}: times are taken from the cadences, to some {error_s:.1g} s",)
