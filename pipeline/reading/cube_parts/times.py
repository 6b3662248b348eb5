"""Find cadence and times of plain image cubes, whatever the camera writes, and say what was taken for what."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from astropy.time import Time, TimeDelta

from shutterless.pipeline.reading.cube_times import DAY_S
from shutterless.pipeline.reading.fits_files import FrameError, HeaderValues
from shutterless.pipeline.reading.headers.dates import (
    GPS_KEYS,
    START_KEYS,
    DateError,
    Stated,
    find_scale,
    is_plausible,
    read_date,
    read_day_number,
    state_start,
)

_CLOCKS = ("TIME-OBS", "UT", "UTC", "UTSTART", "UT-OBS", "UTC-OBS", "UTC-STRT", "UTIME", "TIME-BEG", "UT-START")
# seconds from image to image where no keyword of the profile has them: keyword, and seconds in its unit
_CADENCES = {
    **dict.fromkeys(("FRAMETIM", "FRAMETIME", "TFRAME", "KCT", "CYCLETIM", "KINCYCLE"), 1.0),
    **dict.fromkeys(("EXPTIME", "EXPOSURE", "XPOSURE", "EXP_TIME", "EXPTIM", "INTTIME", "ITIME", "TIMEDEL"), 1.0),
    **dict.fromkeys(("ESO DET SEQ1 DIT", "ESO DET DIT", "DIT"), 1.0),
}
_RATES = ("FPS", "FRATE", "FRAMRATE", "FRMRATE")  # images a second
_TIME_UNITS_S = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("d", "day", "days", "mjd", "jd", "date"), DAY_S),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "µs", "usec", "microsecond", "microseconds"), 1e-6),
}
_MIDDLE, _END = " (the middle of all images)", " (the end of all images)"
# what the comment of a date says of the moment in the first exposure, in exposures from its start
_COMMENTS = {0.5: re.compile(r"\bmid|\bcent(?:re|er)\b", re.I), 1.0: re.compile(r"\bend of\b.*\bexp", re.I)}
_MOST_CLOCKS_APART_S = 0.01
_MOST_CLOCK_ERROR = 0.02  # of the cadence that times may correct; beyond, one of the two is wrong
_FIRST_GUESSED_JD = 2447892.5  # 1990: what would be older is not taken for a date without another one beside it
_ABSOLUTE_S = 10 * DAY_S  # times later than this after DATE-OBS are no seconds since then
# zeros of absolute times: Julian date, modified Julian date (days), Unix time (seconds)
_ZEROS = {"JD": (0.0, DAY_S), "MJD": (2400000.5, DAY_S), "Unix seconds": (2440587.5, 1.0)}


def find_cadence(
    values: HeaderValues, stated: tuple[float, str] | None, times_s: np.ndarray | None, axis_keyword: str, n_images: int
) -> tuple[float, str, tuple[str, ...]]:
    """Seconds from image to image.

    Parameters
    ----------
    values : HeaderValues
    stated : (float, str) or None
        Value of the profile's keyword, and that keyword.
    times_s : ndarray of float64, shape (t,), or None
        Times of the images in seconds since anything, NaN where unknown.
    axis_keyword : str
        Number of the time axis in keywords such as ``CDELT3``.
    n_images : int

    Returns
    -------
    cadence_s : float
    keyword : str
        Where it was read.
    notes : tuple of str

    Raises
    ------
    FrameError
        If nothing tells it.
    """
    step_s = None if times_s is None else median_step(times_s)
    if stated is not None:
        cadence_s, keyword = stated
        measured = None if times_s is None or step_s is None else _measure_cadence(times_s, step_s, cadence_s)
        if measured is None:
            return cadence_s, keyword, ()
        return measured, keyword, (f"{keyword} = {cadence_s:g} s, but the times say {measured:.6g} s, which is taken",)
    missing = f"{values.keyword('cadence_s')} is missing"
    if step_s is not None:
        return cadence_of_times(step_s, missing)
    kind, step = f"CTYPE{axis_keyword}", f"CDELT{axis_keyword}"
    if str(values.read(kind) or "").strip().upper() in ("TIME", "UTC", "TAI") and values.read(step) is not None:
        unit_s = _TIME_UNITS_S.get(str(values.read(f"CUNIT{axis_keyword}") or "s").strip().lower())
        if unit_s is not None:
            cadence_s = values.parse(step, values.read(step)) * unit_s
            return cadence_s, step, (f"{missing}; {step} = {cadence_s:g} s is taken",)
    for keyword, unit_s in _CADENCES.items():
        if values.read(keyword) is not None:
            cadence_s = values.parse(keyword, values.read(keyword)) * unit_s
            return cadence_s, keyword, (f"{missing}; {keyword} = {cadence_s:g} s is taken, as if no time were lost",)
    for keyword in _RATES:
        if values.read(keyword) is not None:
            rate_hz = values.parse(keyword, values.read(keyword))
            return 1 / rate_hz, keyword, (f"{missing}; {keyword} = {rate_hz:g} images a second is taken",)
    if values.read("TELAPSE") is not None:
        cadence_s = values.parse("TELAPSE", values.read("TELAPSE")) / n_images
        return cadence_s, "TELAPSE", (f"{missing}; TELAPSE over {n_images:,} images, {cadence_s:g} s, is taken",)
    raise values.missing("cadence_s")


def cadence_of_times(step_s: float, missing: str) -> tuple[float, str, tuple[str, ...]]:
    """What `find_cadence` returns where the times tell the cadence; ``missing`` says what the header lacks."""
    return step_s, "the table of times", (f"{missing}; {step_s:.6g} s from the table of times is taken",)


def find_start(values: HeaderValues, *, is_barycentric: bool, span_s: float, live_s: float) -> Stated:
    """Start of the first exposure, or why it is not known on the observer's clock.

    Parameters
    ----------
    values : HeaderValues
    is_barycentric : bool
    span_s : float
        Seconds from the start of the first exposure to the end of the last one. ``DATE-AVG`` is the middle of all data,
        ``DATE-END`` their end (FITS standard 4.0, section 9.5).
    live_s : float
        Seconds of one exposure.
    """
    keyword = values.keyword("first_exposure_utc")
    way_out = f"give it with --set {keyword}=2026-03-04T05:06:07"
    if is_barycentric:
        return Stated(None, f"no UTC: {values.keyword('time_place')} = SOLARSYSTEM; times are not the observer's")
    system = values.find("time_system")
    clock_key = next((key for key in _CLOCKS if values.read(key) is not None), None)
    clock = None if clock_key is None else values.read(clock_key)

    def by_date(value: Any) -> Time:
        return read_date(value, system, clock)

    def by_day(value: Any) -> Time:
        return read_day_number(value, system)

    def by_julian_day(value: Any) -> Time:
        return read_day_number(value, system, zero_jd=0.0)

    def before(read: Callable[[Any], Time], seconds: float) -> Callable[[Any], Time]:
        return lambda value: read(value) - TimeDelta(seconds, format="sec")

    attempts: list[tuple[str, Any, Callable[[Any], Time]]] = [
        (key, values.read(key), by_date) for key in (keyword, *START_KEYS)
    ]
    attempts += [(key, values.read(key), by_day) for key in ("MJD-OBS", "MJD-BEG", "MJD_OBS", "EXPSTART", "MJD")]
    attempts += [(key, values.read(key), by_julian_day) for key in ("JD-OBS", "JD-BEG", "JD")]
    for what, seconds, ending in ((_MIDDLE, span_s / 2, "AVG"), (_END, span_s, "END")):
        attempts.append((f"DATE-{ending}{what}", values.read(f"DATE-{ending}"), before(by_date, seconds)))
        attempts.append((f"MJD-{ending}{what}", values.read(f"MJD-{ending}"), before(by_day, seconds)))
    found = state_start(attempts, keyword, way_out)
    text = str(values.read(keyword) or "")
    if found.moment is None or found.source != f"{keyword} = {values.read(keyword)} is taken":
        return found
    notes = []
    if re.fullmatch(r"[\d/-]+", text.strip()):
        notes.append(f"{keyword} and {clock_key} are taken together")
    moment = _start_by_comment(values, keyword, found.moment, live_s, notes)
    _compare_clocks(moment, [(key, values.read(key)) for key in GPS_KEYS], by_date, keyword, notes)
    return Stated(moment, "; ".join(notes))


def _start_by_comment(values: HeaderValues, keyword: str, moment: Time, live_s: float, notes: list[str]) -> Time:
    """Start of an exposure whose middle or end is stated, as the comment of the card says."""
    if keyword in values.supplied:
        return moment
    comment = next((header.comments[keyword] for header in values.headers if keyword in header), "")
    for share, pattern in _COMMENTS.items():
        if pattern.search(comment):
            notes.append(f"{keyword} is taken for the {'middle' if share < 1 else 'end'} of the exposure: {comment!r}")
            return moment - TimeDelta(share * live_s, format="sec")
    return moment


def _compare_clocks(
    moment: Time, others: list[tuple[str, Any]], read: Callable[[Any], Time], keyword: str, notes: list[str]
) -> None:
    """Say if the clock of a GPS receiver disagrees with the one that is taken."""
    for key, value in others:
        try:
            apart_s = 0.0 if value is None else float((read(value) - moment).to_value("s"))
        except DateError:
            continue
        if abs(apart_s) > _MOST_CLOCKS_APART_S:
            notes.append(f"{key} = {value} is {apart_s:+.3f} s from {keyword}, which is taken")


def place_in_exposure(values: HeaderValues) -> float:
    """Place in an exposure that times of a column refer to, from 0, its start, to 1.

    ``TIMEPIXR`` states it (FITS standard 4.0, table 35); without it, and where it is none, the middle is meant.
    """
    stated = values.read("TIMEPIXR")
    place = 0.5 if stated is None else float(values.parse("TIMEPIXR", stated, positive=False))
    return place if 0 <= place <= 1 else 0.5


def read_image_times(
    archive: np.ndarray, unit: str | None, start: Time | None, values: HeaderValues, what: str
) -> tuple[float, Time | None, str, tuple[str, ...]]:
    """Understand a column of times.

    Parameters
    ----------
    archive : ndarray of float64, shape (t,)
    unit : str or None
        Of the column; seconds if there is none.
    start : Time or None
        Start of the first exposure.
    values : HeaderValues
    what : str
        Name of the column.

    Returns
    -------
    unit_s : float
        Seconds in the column's unit.
    zero : Time or None
        Moment at which the column is 0.
    since : str
        What it counts from, in words.
    notes : tuple of str

    Raises
    ------
    FrameError
        If the unit is unknown.
    """
    name = str(unit or "s").strip().lower()
    if name not in _TIME_UNITS_S:
        known = ", ".join(map(repr, _TIME_UNITS_S))
        raise FrameError(f"{values.path}: column {what} is in {name!r}, known are {known}")
    unit_s = _TIME_UNITS_S[name]
    first = archive[np.isfinite(archive)][:1]
    if unit is None and start is not None and first.size and abs(float(first[0]) - float(start.mjd)) < 1:
        unit_s, unit = DAY_S, "d"  # the date itself
    zero = None if start is None else start.tai  # seconds are added on a uniform clock
    since = "" if start is None else f" since {start.isot} ({start.scale.upper()})"
    if not first.size:
        return unit_s, zero, since, ()
    if start is not None and _is_time_of_day(float(first[0]) * unit_s, start):
        midnight = Time(f"{start.utc.isot[:10]}T00:00:00", scale="utc", format="isot")
        return unit_s, midnight.tai, " of the day", (f"column {what} holds seconds of the day, not since DATE-OBS",)
    if abs(float(first[0])) * unit_s < _ABSOLUTE_S:
        return unit_s, zero, since, ()
    for kind, (zero_jd, zero_unit_s) in (_reference_zero(values, unit_s) | _ZEROS).items():
        julian_day = zero_jd + float(first[0]) * zero_unit_s / DAY_S
        near = julian_day > _FIRST_GUESSED_JD if start is None else abs(julian_day - float(start.jd)) < 1
        if (zero_unit_s == unit_s or unit is None) and is_plausible(julian_day) and near:
            system = str(values.find("time_system"))
            try:
                scale, add_s = find_scale(system)
            except DateError as error:
                return zero_unit_s, None, f" ({kind})", (f"no UTC: column {what} is {error}",)
            absolute = Time(zero_jd, 0.0, format="jd", scale=scale)
            absolute = absolute + TimeDelta(add_s, format="sec") if add_s else absolute
            said = f"column {what} holds dates" if name == "date" else f"column {what} is taken for {kind}"
            return zero_unit_s, absolute, f" ({kind}, {system.upper()})", (said,)
    why = f"no UTC: column {what} begins at {first[0]:g} {name}, which is neither a time since DATE-OBS nor a date"
    return unit_s, None, "", (why,)


def _reference_zero(values: HeaderValues, unit_s: float) -> dict[str, tuple[float, float]]:
    """Zero of the times by ``MJDREF`` (FITS standard 4.0, section 9.2.2), as in `_ZEROS`; empty without it."""
    whole, fraction = values.read("MJDREF") or values.read("MJDREFI"), values.read("MJDREFF") or 0.0
    if whole is None:
        return {}
    days = values.parse("MJDREF", whole, positive=False) + values.parse("MJDREFF", fraction, positive=False)
    return {"times since MJDREF": (2400000.5 + days, unit_s)}


def _is_time_of_day(first_s: float, start: Time) -> bool:
    """Whether the first time is that of the start, counted from midnight, and not since the start."""
    clock = start.utc.isot[11:]
    hours, minutes, seconds = clock.split(":")
    of_day_s = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return of_day_s > 60 and abs(first_s - of_day_s) < min(60.0, of_day_s / 10)


def median_step(times_s: np.ndarray) -> float | None:
    """Median of the steps forward of some times, NaN left out; None without a step."""
    steps = np.diff(times_s)
    steps = steps[np.isfinite(steps) & (steps > 0)]
    return float(np.median(steps)) if steps.size else None


def _measure_cadence(times_s: np.ndarray, step_s: float, cadence_s: float) -> float | None:
    """Mean step of the times where it departs from the stated cadence so much that images would change their rows."""
    known = np.isfinite(times_s)
    is_regular = np.count_nonzero(known) > 2 and (np.diff(times_s[known]) > 0).all()
    if abs(step_s / cadence_s - 1) > _MOST_CLOCK_ERROR or not is_regular:
        return None
    rows = np.concatenate([[0], np.cumsum(np.rint(np.diff(times_s[known]) / step_s))])
    slope = float(np.polyfit(rows, times_s[known] - times_s[known][0], 1)[0])
    return slope if abs(slope / cadence_s - 1) * rows[-1] > 0.1 else None
