"""Say where and when a candidate is, in words and commands that other programs take."""

from __future__ import annotations

import shlex
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord
from astropy.time import Time

from shutterless.pipeline.astrometry.places import SEGMENT_COLUMNS
from shutterless.pipeline.results.file_places import ds9_place, region_box
from shutterless.workflows.pages.formats import number


def has_point(candidates: pd.DataFrame) -> pd.Series:
    """Whether candidates are on a star, or on none at a place that a second readout told."""
    return _points(candidates)["ra"].notna()


def point_of(candidates: pd.DataFrame) -> SkyCoord:
    """Positions of candidates with a point (ICRS): that of the star, else that of both appearances."""
    points = _points(candidates)
    return SkyCoord(points["ra"].to_numpy() * u.deg, points["dec"].to_numpy() * u.deg)


def _points(candidates: pd.DataFrame) -> pd.DataFrame:
    """Right ascension and declination of candidates, NaN without a point; tables of an older version have fewer."""
    known = candidates.reindex(columns=["ra", "dec", "point_ra", "point_dec"]).astype("float64")
    return pd.DataFrame({name: known[name].fillna(known[f"point_{name}"]) for name in ("ra", "dec")})


def segment_ends(candidates: pd.DataFrame) -> tuple[SkyCoord, SkyCoord]:
    """Both ends of the segments of candidates (ICRS), that nearer to the register first."""
    ends = candidates[list(SEGMENT_COLUMNS)].to_numpy(dtype=float).T * u.deg
    return SkyCoord(ends[0], ends[1]), SkyCoord(ends[2], ends[3])


def describe_position(candidate: pd.Series) -> list[tuple[str, str]]:
    """Names and values of a candidate's position on the sky, as far as it is known."""
    one = candidate.to_frame().T
    pairs = []
    on_star, seen_twice = (pd.notna(candidate.get(name)) for name in ("ra", "point_ra"))
    if on_star or seen_twice:
        place, error = point_of(one)[0], number(candidate["position_error" if on_star else "point_error"], "{:.2f}")
        pairs += [("RA, Dec (ICRS)", f"{_degrees(place)} ± {error}″")]
        pairs += [("Sexagesimal", place.to_string("hmsdms", sep=":", precision=2))]
    if pd.notna(candidate.get("segment_ra_1")):
        first, last = (end[0] for end in segment_ends(one))
        length = f"{first.separation(last).to_value(u.arcmin):.1f}′"
        pairs.append(("Segment (ICRS)", f"{_degrees(first)} to {_degrees(last)}, {length}"))
    return pairs


def describe_mjd(candidate: pd.Series) -> str:
    """Modified Julian date (UTC) at which the peak was read, to 0.01 ms; a dash where it is unknown."""
    moment = candidate.get("time_read")
    if moment is None or pd.isna(moment):
        return "–"
    return f"{Time(moment.tz_localize(None).isoformat(), format='isot', scale='utc').mjd:.10f}"


def describe_region(candidate: pd.Series) -> str:
    """Region of DS9 around a candidate in the pixels of its HDU."""
    shape = ",".join(f"{value:g}" for value in np.round((*region_box(candidate), 0.0), 2))
    return f"image; box({shape}) # text={{{number(candidate['snr'], '{:.1f}').replace('−', '-')} sigma}}"


def describe_elsewhere(candidate: pd.Series, folder: Path) -> str:
    """File, rows, region and commands by which other programs show a candidate, a line each.

    Parameters
    ----------
    candidate : Series
    folder : Path
        Of the search.
    """
    rows = f"rows {candidate['row_start']}–{candidate['row_stop']}, counted from 0 in read order"
    report = ["shutterless", "report", folder.as_posix(), "--candidate", str(candidate["candidate_id"])]
    lines = [f"{candidate.get('path', candidate['file'])}, {rows}", shlex.join(report)]
    if pd.notna(candidate.get("hdu")) and pd.notna(candidate.get("fits_x")):
        x, y, region = f"{candidate['fits_x']:g}", f"{candidate['fits_y']:g}", describe_region(candidate)
        ds9 = ["ds9", ds9_place(candidate), "-pan", "to", x, y, "image", "-regions", "command", region]
        lines += [region, shlex.join(ds9)]
    return "\n".join(lines)


def _degrees(place: SkyCoord) -> str:
    return f"{place.ra.deg:.6f} {place.dec.deg:+.6f}".replace("-", "−")
