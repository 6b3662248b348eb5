"""Find how an amplifier really points: offset, rotation and scale, from columns, magnitudes and onsets of streaks.

A header says where the stars of a catalogue should be. The columns of the streaks, and the rows at which they were seen
to begin, say where they are. Columns alone give the offset along the columns, the rotation and the scale: a rotation
shifts a star by its row. Only onsets give the offset along the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

# how wrong a pointing may be
LARGEST_OFFSET_ARCSEC = 150.0
LARGEST_ROTATION_DEG = 0.5
LARGEST_SCALE_ERROR = 0.003
# a match is believed if fewer such matches are expected by chance, and so many of the brightest stars have a streak
MOST_CHANCE_MATCHES = 1e-4
LEAST_WITH_STREAK = 0.4
_N_BRIGHTEST = (
    150  # streaks by which the first solution is found; as many stars on the same area, and half as many more
)
_MAG_BIN = 0.4
_MAG_OFFSETS = 2.0  # between the catalogue's band and that of the frames
_STEPS_PX, _STEPS_MAG = (2.0, 1.0, 0.5, 0.5, 0.5), (0.8, 0.6, 0.5, 0.5, 0.5)
_LEAST_MATCHES = 6
_LEAST_ONSETS = 3
_ONSET_ROWS = 3.0  # onsets are found to a row or two


class NoSolutionError(ValueError):
    """Streaks and stars that do not fit each other; the message says why."""


@dataclass(frozen=True, eq=False)
class Stars:
    """Stars of a catalogue where the header says they are: columns, detector rows, magnitudes, each (s,)."""

    x: np.ndarray
    y0: np.ndarray
    mag: np.ndarray

    def take(self, which: np.ndarray) -> Stars:
        """Some of them."""
        return Stars(self.x[which], self.y0[which], self.mag[which])


@dataclass(frozen=True)
class SkySolution:
    """Departure of an amplifier from what its header says, and how sure it is.

    Parameters
    ----------
    offset_x, rotation, scale : float
        ``x = x_h + offset_x + scale (x_h - x_c) + rotation (y_h - y_c)`` with the header's column and row and the
        centre of the amplifier (pixels, radians, relative).
    offset_y : float
        ``y0 = y_h + offset_y - rotation (x_h - x_c) + scale (y_h - y_c)``; NaN if too few onsets were seen.
    centre : (float, float)
        Column and row of the centre of the amplifier.
    mag_offset, mag_scatter : float
        Magnitude of the streak minus that of the catalogue, and its scatter.
    rms_px, rms_rows : float
        Scatter of columns, and of onsets (NaN without).
    n_matched, n_expected, n_onsets : int
        Of the brightest stars of the catalogue so many are on the amplifier, and so many of them have a streak; onsets
        by which ``offset_y`` was found.
    chance_matches : float
        Matches as good as this that are expected if catalogue and frame have nothing to do with each other.
    """

    offset_x: float
    rotation: float
    scale: float
    offset_y: float
    centre: tuple[float, float]
    mag_offset: float
    mag_scatter: float
    rms_px: float
    rms_rows: float
    n_matched: int
    n_expected: int
    n_onsets: int
    chance_matches: float

    @property
    def knows_rows(self) -> bool:
        """Whether the offset along the rows is known."""
        return bool(np.isfinite(self.offset_y))

    def to_pixel(self, x: Any, y0: Any) -> tuple[np.ndarray, np.ndarray]:
        """True columns and rows of places that the header gives; rows as if the offset were 0 where it is unknown."""
        dx, dy = np.asarray(x) - self.centre[0], np.asarray(y0) - self.centre[1]
        return (
            x + self.offset_x + self.scale * dx + self.rotation * dy,
            y0 + self._row_offset - self.rotation * dx + self.scale * dy,
        )

    def is_on(self, x: Any, y0: Any) -> np.ndarray:
        """Whether true columns and rows are on the amplifier, bool."""
        inside = np.abs(np.asarray(x) - self.centre[0]) < self.centre[0] + 0.5
        return inside & (np.abs(np.asarray(y0) - self.centre[1]) < self.centre[1] + 0.5)

    def to_header(self, x: Any, y0: Any) -> tuple[np.ndarray, np.ndarray]:
        """Inverse of `to_pixel`: where the header's WCS has a true column and row."""
        dx = np.asarray(x, dtype=np.float64) - self.centre[0] - self.offset_x
        dy = np.asarray(y0, dtype=np.float64) - self.centre[1] - self._row_offset
        one, determinant = 1 + self.scale, (1 + self.scale) ** 2 + self.rotation**2
        return (
            self.centre[0] + (one * dx - self.rotation * dy) / determinant,
            self.centre[1] + (self.rotation * dx + one * dy) / determinant,
        )

    @property
    def _row_offset(self) -> float:
        return self.offset_y if self.knows_rows else 0.0


def solve_amplifier(
    x: np.ndarray, mag: np.ndarray, y0: np.ndarray, stars: Stars, *, size: tuple[int, int], scale_arcsec: float
) -> SkySolution:
    """Find the departure of an amplifier from its header.

    Parameters
    ----------
    x, mag, y0 : ndarray of float64, shape (s,)
        Columns, magnitudes and onsets (NaN where not seen) of the streaks.
    stars : Stars
        Of the catalogue, also those that would be a little outside.
    size : (int, int)
        Columns, and rows of the amplifier.
    scale_arcsec : float
        Arcsec per pixel.

    Raises
    ------
    NoSolutionError
        If there are too few streaks or stars, or what fits best may fit by chance.

    Notes
    -----
    For every rotation and change of scale in steps of a pixel at the edges, the differences in column and magnitude of
    all pairs of the brightest streaks and stars are counted in bins of a pixel and 0.4 mag. The fullest bin starts a
    least-squares fit of the pairs in it, whose tolerance shrinks to half a pixel. If frame and catalogue have nothing
    to do with each other, a star has a streak so near with probability p, which follows from the density of streaks of
    its magnitude. The binomial probability of as many matches, times the number of offsets, rotations and scales that
    were tried, is the number of chance matches.
    """
    search = _Search(size, LARGEST_OFFSET_ARCSEC / scale_arcsec)
    bright = np.argsort(mag)[:_N_BRIGHTEST]
    # the window around the amplifier from which stars may come is wider than it
    wider = np.prod([(length + 2 * search.offset) / length for length in size])
    near = np.flatnonzero(search.may_be_on(stars))
    chosen = stars.take(near[np.argsort(stars.mag[near])[: int(1.5 * _N_BRIGHTEST * wider)]])
    for n, what in ((len(bright), "streaks"), (len(chosen.x), "stars of the catalogue are near it")):
        if n < _LEAST_MATCHES:
            raise NoSolutionError(f"{n} {what}, {_LEAST_MATCHES} are needed")
    start = search.coarse(x[bright], mag[bright], chosen)
    fit = _refine(start, x[bright], mag[bright], y0[bright], chosen, search)
    if fit.n_matched < _LEAST_MATCHES or fit.chance_matches > MOST_CHANCE_MATCHES:
        raise NoSolutionError(
            f"the best fit has {fit.n_matched} of {fit.n_expected} bright stars within half a pixel of a streak, and "
            f"chance makes {fit.chance_matches:.2g} such fits"
        )
    if fit.n_matched < LEAST_WITH_STREAK * fit.n_expected:
        raise NoSolutionError(
            f"only {fit.n_matched} of {fit.n_expected} bright stars have a streak within half a pixel"
        )
    return fit


@dataclass(frozen=True)
class _Search:
    """Size of the amplifier and range of the search (pixels)."""

    size: tuple[int, int]
    offset: float

    @property
    def centre(self) -> tuple[float, float]:
        return (self.size[0] - 1) / 2, (self.size[1] - 1) / 2

    def may_be_on(self, stars: Stars) -> np.ndarray:
        """Stars that can be on the amplifier if the pointing is as wrong as allowed."""
        reach = self.offset + max(self.size) * np.radians(LARGEST_ROTATION_DEG) / 2
        inside_x = (stars.x > -reach) & (stars.x < self.size[0] - 1 + reach)
        return inside_x & (stars.y0 > -reach) & (stars.y0 < self.size[1] - 1 + reach)

    def steps(self) -> Iterator[tuple[float, float]]:
        """Rotations and scales, in steps of a pixel at the edges."""
        rotation, scale = np.radians(LARGEST_ROTATION_DEG), LARGEST_SCALE_ERROR
        n_rotations, n_scales = int(np.ceil(rotation * self.centre[1])), int(np.ceil(scale * self.centre[0]))
        for one in np.linspace(-rotation, rotation, 2 * n_rotations + 1):
            for other in np.linspace(-scale, scale, 2 * n_scales + 1):
                yield float(one), float(other)

    def n_trials(self, tolerance_px: float) -> float:
        """Independent hypotheses that a search with a tolerance tries."""
        finer = 1 / (2 * tolerance_px)
        n_steps = sum(1 for _ in self.steps()) * max(finer, 1.0) ** 2
        return 2 * self.offset * finer * n_steps * 2 * _MAG_OFFSETS / _MAG_BIN

    def coarse(self, x: np.ndarray, mag: np.ndarray, stars: Stars) -> np.ndarray:
        """Offset, rotation, scale and offset of magnitudes with most pairs in one bin."""
        contrast = mag[:, None] - stars.mag
        streak, star = np.nonzero(np.abs(contrast) < _MAG_OFFSETS)
        mag_bin = np.floor((contrast[streak, star] + _MAG_OFFSETS) / _MAG_BIN).astype(np.int64)
        n_mag = int(2 * _MAG_OFFSETS / _MAG_BIN) + 2
        n_x = int(2 * self.offset) + 2
        best, most = np.zeros(4), -1
        for rotation, scale in self.steps():
            moved = stars.x + scale * (stars.x - self.centre[0]) + rotation * (stars.y0 - self.centre[1])
            shift = x[streak] - moved[star] + self.offset
            inside = (shift >= 0) & (shift < 2 * self.offset)
            flat = shift[inside].astype(np.int64) * n_mag + mag_bin[inside]
            counts = np.bincount(flat, minlength=n_x * n_mag).reshape(n_x, n_mag)
            counts = counts[:-1] + counts[1:]  # a star on the border of two bins counts in both
            counts = counts[:, :-1] + counts[:, 1:]
            if counts.max() > most:
                most = int(counts.max())
                at_x, at_mag = np.unravel_index(counts.argmax(), counts.shape)
                best = np.array([at_x + 1 - self.offset, rotation, scale, (at_mag + 1) * _MAG_BIN - _MAG_OFFSETS])
        return best


def _refine(
    start: np.ndarray, x: np.ndarray, mag: np.ndarray, y0: np.ndarray, stars: Stars, search: _Search
) -> SkySolution:
    """Fit all pairs near a first solution by least squares."""
    (offset, rotation, scale, mag_offset), centre = start, search.centre
    dx, dy = stars.x - centre[0], stars.y0 - centre[1]
    streak = star = np.empty(0, dtype=np.int64)
    left = np.empty(0)
    for within_px, within_mag in zip(_STEPS_PX, _STEPS_MAG, strict=True):
        predicted = stars.x + offset + scale * dx + rotation * dy
        streak, star = match_pairs(x, mag - mag_offset, predicted, stars.mag, within_px, within_mag)
        if len(star) < _LEAST_MATCHES:
            break
        # priors keep few stars from being fitted by any rotation and scale
        matrix = np.stack([np.ones(len(star)), dy[star], dx[star]], axis=1)
        prior = np.diag([0, 1 / np.radians(LARGEST_ROTATION_DEG), 1 / LARGEST_SCALE_ERROR])
        wanted = np.append(x[streak] - stars.x[star], np.zeros(3))
        offset, rotation, scale = np.linalg.lstsq(np.vstack([matrix, prior]), wanted, rcond=None)[0]
        left = x[streak] - stars.x[star] - matrix @ np.array([offset, rotation, scale])
        mag_offset = float(np.median(mag[streak] - stars.mag[star]))
    contrast = mag[streak] - stars.mag[star] - mag_offset
    rows = stars.y0[star] - rotation * dx[star] + scale * dy[star]
    offset_y, rms_rows, n_onsets = _row_offset(y0[streak] - rows, search.offset)
    # the brightest stars that are on the amplifier, as many as there are streaks
    at_x = stars.x + offset + scale * dx + rotation * dy
    row = stars.y0 + (0 if np.isnan(offset_y) else offset_y) - rotation * dx + scale * dy
    on = (at_x >= 0) & (at_x <= search.size[0] - 1) & (row >= 0) & (row <= search.size[1] - 1)
    expected = np.flatnonzero(on)[: len(x)]
    return SkySolution(
        float(offset), float(rotation), float(scale), offset_y, centre, float(mag_offset), _scatter(contrast),
        _scatter(left), rms_rows, int(np.isin(expected, star).sum()), len(expected), n_onsets,
        _chance_matches(mag - mag_offset, stars.mag[expected], int(np.isin(expected, star).sum()), search),
    )  # fmt: skip


def match_pairs(
    x: np.ndarray, mag: np.ndarray, star_x: np.ndarray, star_mag: np.ndarray, within_px: float, within_mag: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of streaks and stars that are each other's nearest in column and magnitude, in units of the limits."""
    if not len(x) or not len(star_x):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    here = np.stack([x / within_px, mag / within_mag], axis=1)
    there = np.stack([star_x / within_px, star_mag / within_mag], axis=1)
    distance, star = cKDTree(there).query(here, distance_upper_bound=1.0)
    near = np.flatnonzero(np.isfinite(distance))
    _, back = cKDTree(here).query(there[star[near]])
    mutual = near[back == near]
    return mutual, star[mutual]


def _row_offset(difference: np.ndarray, largest: float) -> tuple[float, float, int]:
    """Offset along the rows on which most onsets agree, its scatter and the number of onsets; NaN where too few do."""
    seen = np.sort(difference[np.abs(difference) <= largest])
    if len(seen) < _LEAST_ONSETS:
        return np.nan, np.nan, 0
    last = np.searchsorted(seen, seen + 2 * _ONSET_ROWS, side="right")
    first = int(np.argmax(last - np.arange(len(seen))))
    agreeing = seen[first : last[first]]
    n_all = int(np.isfinite(difference).sum())
    # a matched star and its onset belong together in most cases, so onsets that agree by chance are fewer
    if len(agreeing) < max(_LEAST_ONSETS, n_all / 2):
        return np.nan, np.nan, 0
    return float(np.median(agreeing)), _scatter(agreeing), len(agreeing)


def _chance_matches(mag: np.ndarray, star_mag: np.ndarray, n_matched: int, search: _Search) -> float:
    """Matches of so many stars that are expected by chance, over everything that was tried."""
    from scipy.stats import binom  # slow to import, and a search without a catalogue does not need it

    within_px, within_mag = _STEPS_PX[-1], _STEPS_MAG[-1]
    ordered = np.sort(mag)
    alike = np.searchsorted(ordered, star_mag + within_mag) - np.searchsorted(ordered, star_mag - within_mag)
    chance = 1 - np.exp(-alike * 2 * within_px / search.size[0])
    if not len(chance):
        return 1.0
    return float(search.n_trials(within_px) * binom.sf(n_matched - 1, len(chance), chance.mean()))


def _scatter(values: np.ndarray) -> float:
    """Robust standard deviation; NaN of nothing."""
    from scipy.stats import median_abs_deviation  # as above

    return float(median_abs_deviation(values, scale="normal")) if len(values) else float("nan")
