"""Give an event on no star a point, where two readouts saw the same flash: on two segments of sky, at one time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord

from shutterless.pipeline.astrometry.places import SEGMENT_COLUMNS

POINT_COLUMNS = ("point_ra", "point_dec", "point_error", "point_with")
_MOST_BY_CHANCE = 0.05  # other candidates whose time would fit as well
_SIGMA = 3.0
_ALIKE = 2.0  # largest ratio of lengths
_LONGEST_ERROR = 0.05  # of the point, as a share of the segment: beyond it the segments are parallel and read alike
_ROW_ERROR_PX = 1.0  # of a peak, at best


def place_second_appearances(candidates: pd.DataFrame, timed: Collection[str]) -> pd.DataFrame:
    """Give candidates with a segment the point at which a second readout saw the same flash.

    Parameters
    ----------
    candidates : DataFrame
        Of all amplifiers and files of a search, with `SEGMENT_COLUMNS`.
    timed : collection of str
        ``candidate_id`` of those whose place along the segment tells their time: in amplifiers where onsets told the
        offset along the rows.

    Returns
    -------
    DataFrame
        With `POINT_COLUMNS`: position (degrees, ICRS), its 1 σ error (arcsec), and the ``candidate_id`` of the other
        appearance.

    Notes
    -----
    It is assumed that both readouts saw one flash of one source: at one position and at one moment. Light that falls y
    rows from the register at time t is read in row ``k = v t + y``, so each place on a segment has a time of its own,
    and the two segments state four things (two columns, two rows) about three unknowns (two coordinates and t). They
    are solved by least squares. Both appearances have the same sign and lengths within a factor 2; they agree within 3
    σ; and fewer than 0.05 candidates like these are expected to agree by chance with the times of this one. A flash
    seen once and a star that flashes twice are not resolved, nor what two amplifiers of one CCD saw: they share no sky.
    """
    nothing = pd.Series(pd.NA, index=candidates.index, dtype="string")
    placed = candidates.assign(**dict.fromkeys(POINT_COLUMNS[:3], np.nan), point_with=nothing)
    usable = candidates["candidate_id"].isin(timed) & (candidates["time_event_min"] < candidates["time_event_max"])
    usable &= candidates[list(SEGMENT_COLUMNS)].notna().all(axis=1)
    chosen = candidates[usable]
    tracks = [_Track.of(row) for row in chosen.to_dict("records")]
    alike = _Alike.of(chosen)
    for position, one in enumerate(tracks):
        others = [tracks[k] for k in alike.others(position)]
        fits = [(fit.chi2, fit, other) for other in others if (fit := _meet(one, other)) is not None]
        if not fits or len(others) * max(fit.time_share for _, fit, _ in fits) > _MOST_BY_CHANCE:
            continue
        _, best, other = min(fits, key=lambda found: found[0])
        here = placed["candidate_id"] == one.name
        placed.loc[here, list(POINT_COLUMNS[:3])] = best.ra, best.dec, best.error_arcsec
        placed.loc[here, "point_with"] = other.name
    return placed


@dataclass(frozen=True)
class _Alike:
    """What candidates with a segment have in common: readout, time, sign, length and, by vectors, the patch of sky."""

    readout: np.ndarray
    first: np.ndarray
    last: np.ndarray
    snr: np.ndarray
    duration_s: np.ndarray
    middle: np.ndarray
    half: np.ndarray

    @classmethod
    def of(cls, candidates: pd.DataFrame) -> _Alike:
        ends = [
            SkyCoord(candidates[ra].to_numpy(), candidates[dec].to_numpy(), unit="deg").cartesian.xyz.value
            for ra, dec in (SEGMENT_COLUMNS[:2], SEGMENT_COLUMNS[2:])
        ]
        names = candidates[["file", "ccd", "quadrant"]].astype(str).agg("/".join, axis=1)
        first, last, snr, duration_s = (
            candidates[name].to_numpy() for name in ("time_event_min", "time_event_max", "snr", "duration_s")
        )
        middle, half = (ends[0] + ends[1]) / 2, np.linalg.norm(ends[1] - ends[0], axis=0) / 2
        return cls(names.to_numpy(dtype=object), first, last, snr, duration_s, middle, half)

    def others(self, k: int) -> np.ndarray:
        """Those of another readout that may be another appearance of one of them."""
        longer, shorter = (
            np.maximum(self.duration_s, self.duration_s[k]),
            np.minimum(self.duration_s, self.duration_s[k]),
        )
        may = (self.readout != self.readout[k]) & (self.snr * self.snr[k] > 0) & (longer <= _ALIKE * shorter)
        may &= (self.first <= self.last[k]) & (self.last >= self.first[k])
        apart = np.linalg.norm(self.middle - self.middle[:, k, None], axis=0)
        return np.flatnonzero(may & (apart < 1.01 * (self.half + self.half[k])))


@dataclass(frozen=True)
class _Track:
    """Segment of a candidate, and the times at its ends; the light of the end nearer to the register came last."""

    name: str
    ends: SkyCoord
    first_s: float
    last_s: float
    duration_s: float
    snr: float
    across_arcsec: float

    @classmethod
    def of(cls, row: dict[str, object]) -> _Track:
        ra, dec = [[row[f"segment_{axis}_{end}"] for end in (1, 2)] for axis in ("ra", "dec")]
        times = [pd.Timestamp(row[name]).value / 1e9 for name in ("time_event_min", "time_event_max")]  # type: ignore[arg-type]
        numbers = [float(row[name]) for name in ("duration_s", "snr", "position_error")]  # type: ignore[arg-type]
        return cls(str(row["candidate_id"]), SkyCoord(ra, dec, unit="deg"), *times, *numbers)

    def equations(self, middle: SkyCoord, epoch_s: float) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Rows across and along the segment: coefficients of east, north and time, right sides, in units of σ.

        And the length (arcsec) and the error of the time (s).
        """
        east, north = (offset.to_value(u.arcsec) for offset in middle.spherical_offsets_to(self.ends))
        start = np.array([east[0], north[0]])
        along = np.array([east[1], north[1]]) - start
        length = float(np.hypot(*along))
        along /= length
        speed = length / (self.last_s - self.first_s)
        error = np.hypot(_ROW_ERROR_PX * 2 * self.across_arcsec, speed * self.duration_s / abs(self.snr))
        across = np.array([-along[1], along[0]])
        left = np.array([[*across / self.across_arcsec, 0.0], [*along / error, speed / error]])
        right = np.array(
            [across @ start / self.across_arcsec, (along @ start + speed * (self.last_s - epoch_s)) / error]
        )
        return left, right, length, float(error / speed)


@dataclass(frozen=True)
class _Meeting:
    """Where two segments meet at one time, how badly that fits, and the share of a transit within the error of time."""

    ra: float
    dec: float
    error_arcsec: float
    chi2: float
    time_share: float


def _meet(one: _Track, other: _Track) -> _Meeting | None:
    """Point and time of two segments; None if they do not meet, or do not tell the point."""
    middle = one.ends[0].directional_offset_by(
        one.ends[0].position_angle(one.ends[1]), one.ends[0].separation(one.ends[1]) / 2
    )
    epoch = (one.first_s + one.last_s) / 2
    parts = [track.equations(middle, epoch) for track in (one, other)]
    left, right = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    covariance = np.linalg.pinv(left.T @ left)
    solution = covariance @ left.T @ right
    chi2 = float(np.sum((left @ solution - right) ** 2))
    error = float(np.sqrt(np.trace(covariance[:2, :2]) / 2))
    moment = solution[2] + epoch
    inside = all(track.first_s <= moment <= track.last_s for track in (one, other))
    if np.linalg.matrix_rank(left) < 3 or error > _LONGEST_ERROR * parts[0][2] or chi2 > _SIGMA**2 or not inside:
        return None
    place = middle.spherical_offsets_by(solution[0] * u.arcsec, solution[1] * u.arcsec)
    width = 2 * _SIGMA * np.hypot(parts[0][3], parts[1][3])
    share = width / (one.last_s - one.first_s)
    return _Meeting(float(place.ra.deg), float(place.dec.deg), error, chi2, float(share))
