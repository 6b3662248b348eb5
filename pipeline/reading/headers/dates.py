"""Understand the dates and times that people write into headers, where they can mean one moment only."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from astropy.time import Time, TimeDelta

FIRST_YEAR, LAST_YEAR = 1960, 2099  # those of UTC; a clock that was never set says 1, 1601, 1858 or 1900
GPS_BEHIND_TAI_S = 19.0
# spellings of TIMESYS (FITS standard 4.0, table 30, and what cameras write): scale, and seconds to be added
_SCALES = {
    **dict.fromkeys(("utc", "ut", "gmt", "z", "zulu"), ("utc", 0.0)),
    **dict.fromkeys(("tai", "iat"), ("tai", 0.0)),
    **dict.fromkeys(("tt", "tdt", "et"), ("tt", 0.0)),
    **{name: (name, 0.0) for name in ("tdb", "tcb", "tcg")},
    "gps": ("tai", GPS_BEHIND_TAI_S),
}
GPS_KEYS = ("GPSTIME", "GPS_TIME", "GPS-TIME", "GPS_UTC", "GPS-UTC", "GPSUTC", "GPSSTART", "GPS_ST", "GPS_SUTC")
START_KEYS = ("DATE-BEG", "DATE_OBS", "DATEOBS", "UTC-DATE", *GPS_KEYS, "GPS-START", "GPS_START", "GPS-BEG")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAME = rf"(?P<name>{'|'.join(_MONTHS)})[a-z]*\.?"
_DAYS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        r"(?P<year>\d{4})[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})(?!\d)",
        r"(?P<year>\d{4})-(?P<ordinal>\d{3})(?!\d)",  # of the year
        r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})(?!\d)",
        r"(?P<day>\d{2})/(?P<month>\d{2})/(?P<old_year>\d{2})(?!\d)",  # of the 20th century (FITS before 1999)
        rf"(?P<day>\d{{1,2}})[- ]{_NAME}[- ,]+(?P<year>\d{{4}})",
        rf"{_NAME}[- ]+(?P<day>\d{{1,2}})[ ,]+(?P<year>\d{{4}})",
        rf"(?P<year>\d{{4}})[- ]{_NAME}[- ](?P<day>\d{{1,2}})(?!\d)",
    )
)
_CLOCKS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        r"(\d{1,2}):(\d{1,2})(?::(\d{1,2})(\.\d*)?)?",
        r"(\d{1,2})h\s*(\d{1,2})m(?:\s*(\d{1,2})(\.\d*)?s)?",
        r"(\d{2})(\d{2})(?:(\d{2})(\.\d*)?)?(?!\d)",
    )
)
_ZONE = re.compile(r"(?:Z|UTC?|([+-])(\d{2}):?(\d{2})?)", re.IGNORECASE)


class DateError(ValueError):
    """A date that is none, or can mean several moments; the message is the reason."""


@dataclass(frozen=True)
class Stated:
    """A moment and where it was read, in words; without a moment the reason why there is none."""

    moment: Time | None
    source: str


def find_scale(name: Any) -> tuple[str, float]:
    """Scale of a value of ``TIMESYS``, and the seconds to be added to its times.

    Raises
    ------
    DateError
        If UTC cannot be computed from it.
    """
    plain = re.sub(r"\(.*\)", "", str(name)).strip().lower()
    if plain not in _SCALES:
        raise DateError(f"in the scale {' '.join(str(name).split())}, which has no conversion to UTC")
    return _SCALES[plain]


def read_date(value: Any, system: Any = "UTC", clock: Any = None) -> Time:
    """Moment that a date means.

    Parameters
    ----------
    value : Any
        Such as ``2026-03-04T05:06:07.123``, with a blank for the T, a Z or an offset from UTC behind it; or a date
        alone (``2026-03-04``, ``26/07/98``). ``20260304T050607``, ``2026-063`` (the day of the year), ``4 Mar 2026``,
        ``Mar 4, 2026`` and ``5h06m07s`` are read, too.
    system : Any
        Name of the time scale (``TIMESYS``).
    clock : Any, optional
        Time of the day (``05:06:07``) from another keyword; used if the date has none.

    Raises
    ------
    DateError
    """
    scale, add_s = find_scale(system)
    text = str(value).strip()
    day, rest = _split_day(text)
    rest = rest.lstrip("Tt ").strip()
    if not rest:
        if clock is None or not str(clock).strip():
            raise DateError("a date without a time of the day")
        rest = str(clock).strip()
    found = next((found for form in _CLOCKS if (found := form.match(rest))), None)
    zone = _ZONE.fullmatch(rest[found.end() :].strip()) if found and rest[found.end() :].strip() else None
    if not found or (rest[found.end() :].strip() and zone is None):
        raise DateError("no date of the form 2026-03-04T05:06:07.123")
    hours, minutes, seconds, fraction = found.groups()
    clock_s = f"{int(minutes):02d}:{int(seconds or 0):02d}{fraction if len(fraction or '') > 1 else ''}"
    is_midnight = int(hours) == 24 and not float(clock_s.replace(":", ""))  # of the end of the day (ISO 8601)
    try:
        moment = Time(f"{day}T{0 if is_midnight else int(hours):02d}:{clock_s}", scale=scale, precision=6)
    except ValueError:
        raise DateError("no date of the calendar") from None
    moment = moment + TimeDelta(is_midnight, format="jd") if is_midnight else moment
    if zone is not None and zone[1] and scale != "utc":
        raise DateError(f"an offset from UTC, but TIMESYS = {system}")
    offset_s = _offset_s(zone) if zone is not None else 0.0
    return moment + TimeDelta(add_s - offset_s, format="sec") if add_s or offset_s else moment


def read_day_number(value: Any, system: Any = "UTC", *, zero_jd: float = 2400000.5) -> Time:
    """Moment of a day number, a modified Julian date by default.

    Raises
    ------
    DateError
    """
    scale, add_s = find_scale(system)
    try:
        days = float(value)
    except (TypeError, ValueError):
        raise DateError("not a number of days") from None
    if not is_plausible(zero_jd + days):
        raise DateError(f"not between the years {FIRST_YEAR} and {LAST_YEAR}")
    return Time(zero_jd, days, format="jd", scale=scale, precision=6) + TimeDelta(add_s, format="sec")


def is_plausible(julian_day: float) -> bool:
    """Whether a Julian date lies in years in which there were detectors."""
    return FIRST_YEAR <= 2000 + (julian_day - 2451545.0) / 365.25 < LAST_YEAR + 1


def state_start(attempts: Sequence[tuple[str, Any, Callable[[Any], Time]]], missing: str, way_out: str) -> Stated:
    """First moment that can be read, with what was not understood before it.

    Parameters
    ----------
    attempts : sequence of (str, Any, callable)
        Keyword, its value (None if the header has none), and what reads it.
    missing : str
        Keyword that is asked for if there is none at all.
    way_out : str
        How the user can give a date.

    Returns
    -------
    Stated
    """
    reasons = []
    for keyword, value, read in attempts:
        if value is None:
            continue
        try:
            moment = read(value)
        except DateError as error:
            reasons.append(f"{keyword} = {value} is {error}")
            continue
        return Stated(moment, "; ".join([*reasons, f"{keyword} = {value} is taken"]))
    why = "; ".join(reasons) or f"{missing} is missing"
    return Stated(None, f"no UTC: {why}; {way_out}")


def _split_day(text: str) -> tuple[str, str]:
    """Day as ``2026-03-04``, and what follows it."""
    found = next((found for form in _DAYS if (found := form.match(text))), None)
    if found is None:
        raise DateError("no date of the form 2026-03-04T05:06:07.123")
    stated = found.groupdict()
    year = int(stated["year"]) if stated.get("year") else 1900 + int(stated["old_year"])
    if not FIRST_YEAR <= year <= LAST_YEAR:
        raise DateError(f"not between the years {FIRST_YEAR} and {LAST_YEAR}: was the clock set?")
    rest = text[found.end() :]
    if "ordinal" in stated:
        return _day_of_year(year, int(stated["ordinal"])), rest
    month = _MONTHS.index(stated["name"].lower()) + 1 if "name" in stated else int(stated["month"])
    return f"{year:04d}-{month:02d}-{int(stated['day']):02d}", rest


def _day_of_year(year: int, number: int) -> str:
    """Day as ``2026-03-04`` from its number in the year."""
    found = date(year, 1, 1) + timedelta(days=number - 1)
    if found.year != year:
        raise DateError("no date of the calendar")
    return found.isoformat()


def _offset_s(zone: re.Match[str]) -> float:
    """Seconds by which a local time is ahead of UTC."""
    sign, hours, minutes = zone.groups()
    return 0.0 if not sign else (1 if sign == "+" else -1) * (3600.0 * int(hours) + 60.0 * int(minutes or 0))


def is_plain_utc(value: Any, system: Any) -> bool:
    """Whether a date is in UTC and in the form that astropy reads, so that it can be kept as it stands."""
    return (
        find_scale(system) == ("utc", 0.0)
        and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?", str(value)) is not None
    )
