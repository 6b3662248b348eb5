"""Compute barycentric times: when light would pass the centre of mass of the solar system, on a uniform clock (TDB)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import Angle, EarthLocation, SkyCoord
from astropy.io import fits
from astropy.time import Time, TimeDelta
from astropy.utils import iers
from erfa import ErfaWarning

from shutterless.pipeline.reading.instruments import Site
from shutterless.pipeline.reading.readout import Readout

KNOT_S = 30.0  # between computed delays; linear interpolation errs by 13 ns (3.4 cm/s² of the Earth's spin)


class BarycentreError(ValueError):
    """A barycentric time that lacks a position, a site or a clock."""


@dataclass(frozen=True)
class Direction:
    """Right ascension and declination (degrees, ICRS)."""

    ra_deg: float
    dec_deg: float


def parse_direction(ra: Any, dec: Any, source: str) -> Direction:
    """Read a position from numbers (degrees) or sexagesimal text (hours and degrees).

    Raises
    ------
    BarycentreError
        If it is neither, or not on the sphere. The message names ``source``.
    """
    try:
        right = Angle(ra, u.hourangle if ":" in str(ra) or "h" in str(ra) else u.deg).deg
        north = Angle(dec, u.deg).deg
    except (ValueError, TypeError, u.UnitsError) as error:
        raise BarycentreError(
            f"{source}: RA {ra!r} and DEC {dec!r} are not a position; give degrees or HH:MM:SS and DD:MM:SS"
        ) from error
    if not (0 <= right <= 360 and -90 <= north <= 90):
        raise BarycentreError(f"{source}: RA {right:g} and DEC {north:g} are not within 0 to 360 and -90 to 90 degrees")
    return Direction(float(right), float(north))


def read_pointing(path: str | Path) -> Direction:
    """Pointing of the camera from ``RA`` and ``DEC`` in the primary header of a file.

    Raises
    ------
    BarycentreError
        If the header lacks it.
    """
    header = fits.getheader(path, 0)
    missing = [key for key in ("RA", "DEC") if header.get(key) in (None, "")]
    if missing:
        raise BarycentreError(
            f"{path}: no {' and no '.join(missing)} in the primary header, so no barycentric time is known; "
            "give the position with --ra and --dec, or a catalogue with ra and dec"
        )
    return parse_direction(header["RA"], header["DEC"], str(path))


def bjd_tdb(readout: Readout, rows: np.ndarray, direction: Direction, site: Site) -> Time:
    """Barycentric time of light that arrives when file rows are read.

    Parameters
    ----------
    readout : Readout
    rows : ndarray, shape (t,)
        File rows in rising order, fractions allowed. For the time of a star's light subtract the star's detector row.
    direction : Direction
        Of the star.
    site : Site

    Returns
    -------
    Time, shape (t,)
        TDB. A single float of days (``.jd``) holds it to 20 µs, the two of a `Time` to less than a nanosecond.

    Raises
    ------
    BarycentreError
        If the rows have no UTC.

    Notes
    -----
    ``BJD_TDB = t + r·n/c`` with the vector r from the barycentre to the site and the unit vector n to the star, at
    infinity (Eastman, Siverd & Gaudi 2010, PASP 122, 935). astropy's built-in ephemeris places the Earth to 5 km rms
    and 13 km at worst (ERFA, epv00): 15 and 45 µs of light. UT1 is taken to be UTC, which changes the rotation of the
    Earth by at most 0.9 s and the light time by 1.4 µs. Nothing is downloaded.
    """
    if readout.shutter_open_utc is None or readout.first_row is None:
        raise BarycentreError(
            "barycentric times need the UTC of the rows: when the shutter opened and the sequence row of the file's "
            "first row (SHUTOPEN and SEQROW0 for ZTF); give them with --set"
        )
    opened = Time(readout.shutter_open_utc, scale="utc", format="isot").tai
    if not len(rows):
        return (opened + TimeDelta(np.empty(0), format="sec")).tdb
    seconds = readout.seconds(rows)
    n_knots = int(np.ceil((seconds[-1] - seconds[0]) / KNOT_S)) + 1
    knots_s = np.linspace(seconds[0], seconds[-1], max(n_knots, 2))
    times = (opened + TimeDelta(knots_s, format="sec")).utc
    delay_s = _light_travel_s(times, direction, site)
    return (opened + TimeDelta(seconds, format="sec")).tdb + TimeDelta(
        np.interp(seconds, knots_s, delay_s), format="sec"
    )


def _light_travel_s(times: Time, direction: Direction, site: Site) -> np.ndarray:
    """Seconds by which light reaches the barycentre later than the site, shape (k,)."""
    place = EarthLocation.from_geodetic(site.longitude_deg * u.deg, site.latitude_deg * u.deg, site.height_m * u.m)
    star = SkyCoord(direction.ra_deg * u.deg, direction.dec_deg * u.deg)
    times = times.copy()
    times.delta_ut1_utc = 0.0
    with (
        iers.conf.set_temp("iers_degraded_accuracy", "ignore"),
        iers.conf.set_temp("auto_max_age", None),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ErfaWarning)  # leap seconds of future years are unknown
        warnings.filterwarnings("ignore", message=".*polar motion.*")  # metres, nanoseconds
        return times.light_travel_time(star, kind="barycentric", location=place, ephemeris="builtin").to_value("s")
