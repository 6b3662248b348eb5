"""Give streaks the names and positions of their stars, with the probability that the star is the right one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from shutterless.pipeline.astrometry.solve import SkySolution, Stars

# what is not beyond doubt is flagged
BLENDED, UNCERTAIN = "blended", "uncertain"
LEAST_PROBABILITY = 0.99
LEAST_SHARE_OF_LIGHT = 0.8
_REACH_SIGMA = 2.0  # of the point-spread function: stars that are nearer are one streak
_FAR_SIGMA = 5.0  # of columns, magnitudes and onsets: farther from what is expected, a star is another one
_LEAST_ERROR_PX, _LEAST_ERROR_MAG, _ONSET_ERROR_ROWS = 0.03, 0.1, 1.5
_CROWD_PX = 100.0  # columns on which the density of streaks is counted
_CROWD_MAG = 0.5


@dataclass(frozen=True, eq=False)
class NamedStreaks:
    """Star of each streak of an amplifier.

    Parameters
    ----------
    star : ndarray of int64, shape (s,)
        Position in the catalogue, -1 where no star fits.
    probability : ndarray of float64, shape (s,)
        That the streak is this star's and not that of a star which the catalogue lacks; NaN without a star.
    share : ndarray of float64, shape (s,)
        Of the light of the catalogue's stars in the streak that is this star's; NaN without a star.
    flag : ndarray of str, shape (s,)
        `BLENDED` if less than `LEAST_SHARE_OF_LIGHT` is its own, else `UNCERTAIN` below `LEAST_PROBABILITY`, else
        empty.
    """

    star: np.ndarray
    probability: np.ndarray
    share: np.ndarray
    flag: np.ndarray


def name_streaks(streaks: pd.DataFrame, stars: Stars, solution: SkySolution, psf_sigma_px: float) -> NamedStreaks:
    """Find the star of each streak.

    Parameters
    ----------
    streaks : DataFrame
        With ``x``, ``mag``, ``y0``, ``flux_e_row`` and ``flux_error_e_row``.
    stars : Stars
        Of the catalogue, where the header says they are.
    solution : SkySolution
    psf_sigma_px : float

    Notes
    -----
    A star belongs to the nearest streak within 2 σ of the point-spread function. All stars of a streak share its light,
    weighted by how near they are, and the brightest gives the name. The centroid of the stars must be at the streak's
    column, and their sum must be its magnitude, within 5 σ. With the share C of streaks that have a star, and Gaussian
    errors, the probability of the star is ``C L / (C L + (1 - C) d)``. L is the likelihood of column and magnitude, and
    d the density of streaks per column and magnitude, with which another star would be there. If the streak was seen to
    begin elsewhere, L is multiplied with the share of such onsets.
    """
    x, mag, y0 = (streaks[name].to_numpy(dtype=np.float64) for name in ("x", "mag", "y0"))
    flux, error = streaks["flux_e_row"].to_numpy(), streaks["flux_error_e_row"].to_numpy()
    if not len(x):
        nothing = np.empty(0)
        return NamedStreaks(np.empty(0, dtype=np.int64), nothing, nothing, np.empty(0, dtype=object))
    at_x, at_y = solution.to_pixel(stars.x, stars.y0)
    at_x = np.where(solution.is_on(at_x, at_y), at_x, np.nan)
    light = np.nan_to_num(10 ** (-0.4 * (stars.mag + solution.mag_offset)))
    group = _Groups.of(x, y0, at_x, at_y, light, psf_sigma_px, solution)
    spread = 1 - np.nan_to_num(group.share)  # a blend stands between its stars, with the light of all or of some
    error_x = np.sqrt(max(solution.rms_px, _LEAST_ERROR_PX) ** 2 + psf_sigma_px**2 * ((error / flux) ** 2 + spread**2))
    error_mag = np.hypot(max(solution.mag_scatter, _LEAST_ERROR_MAG), 1.0857 * np.hypot(error / flux, spread))
    with np.errstate(divide="ignore", invalid="ignore"):
        pull_x = (x - group.centroid) / error_x
        pull_mag = (mag + 2.5 * np.log10(group.light)) / error_mag
        fits = (np.abs(pull_x) < _FAR_SIGMA) & (np.abs(pull_mag) < _FAR_SIGMA) & (group.star >= 0)
    pull_x, pull_mag = np.where(fits, pull_x, 0), np.where(fits, pull_mag, 0)
    likelihood = np.exp(-0.5 * (pull_x**2 + pull_mag**2)) / (2 * np.pi * error_x * error_mag)
    begins = group.begins[fits & np.isfinite(y0)]
    likelihood = np.where(group.begins, likelihood, likelihood * (1 - (begins.sum() + 1) / (len(begins) + 2)))
    complete = (fits.sum() + 1) / (len(x) + 2)
    probability = complete * likelihood / (complete * likelihood + (1 - complete) * _density(x, mag))
    share = np.where(fits, group.share, np.nan)
    flag = np.where(share < LEAST_SHARE_OF_LIGHT, BLENDED, np.where(probability < LEAST_PROBABILITY, UNCERTAIN, ""))
    return NamedStreaks(
        np.where(fits, group.star, -1), np.where(fits, probability, np.nan), share,
        np.where(fits, flag, "").astype(object),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Groups:
    """Of each streak the brightest of its stars (-1 without any), its share, and light and centroid of all of them."""

    star: np.ndarray
    share: np.ndarray
    light: np.ndarray
    centroid: np.ndarray
    begins: np.ndarray  # whether it was not seen to begin at another row than its star

    @classmethod
    def of(
        cls, x: np.ndarray, y0: np.ndarray, at_x: np.ndarray, at_y: np.ndarray, light: np.ndarray, psf_sigma_px: float,
        solution: SkySolution,
    ) -> _Groups:  # fmt: skip
        """Give every star to the nearest streak within reach, and find the leader of each streak."""
        n = len(x)
        known = np.flatnonzero(np.isfinite(at_x))
        distance, nearest = cKDTree(x[:, None]).query(
            at_x[known, None], distance_upper_bound=_REACH_SIGMA * psf_sigma_px
        )
        star, streak = known[np.isfinite(distance)], nearest[np.isfinite(distance)]
        weight = light[star] * np.exp(-(((at_x[star] - x[streak]) / (2 * psf_sigma_px)) ** 2))
        total = np.bincount(streak, weights=weight, minlength=n)
        moment = np.bincount(streak, weights=weight * at_x[star], minlength=n)
        agrees = np.ones(len(star), dtype=bool)
        if solution.knows_rows:
            within = _FAR_SIGMA * np.hypot(_ONSET_ERROR_ROWS, solution.rms_rows)
            agrees = ~(np.abs(y0[streak] - at_y[star]) > within)  # true where no onset was seen
        leader, its_weight = np.full(n, -1, dtype=np.int64), np.full(n, np.nan)
        order = np.argsort(weight)  # the last one, the brightest, stays
        leader[streak[order]], its_weight[streak[order]] = star[order], weight[order]
        begins = np.ones(n, dtype=bool)
        begins[streak[order]] = agrees[order]
        with np.errstate(divide="ignore", invalid="ignore"):
            return cls(leader, its_weight / total, total, moment / total, begins)


def _density(x: np.ndarray, mag: np.ndarray) -> np.ndarray:
    """Streaks per column and magnitude around each streak, itself among them."""
    points = np.stack([x / _CROWD_PX, np.nan_to_num(mag) / _CROWD_MAG], axis=1)
    tree = cKDTree(points)
    counts = np.array([len(near) for near in tree.query_ball_point(points, 1.0, p=np.inf)])
    return counts / (4 * _CROWD_PX * _CROWD_MAG)
