"""Describe the star of a trigger and the stars beside it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.streaks.find import nearest_place
from shutterless.pipeline.psf import pixel_profile

STAR_FEATURES = (
    "star_height",
    "star_distance_px",
    "relative_amplitude",
    "neighbour_height",
    "neighbour_distance_px",
    "level_sigma",
    "onset_rows",
    "edge_px",
    "edge_lengths",
)
OWN_STAR_PX = 2.0  # a trigger farther from a star is not on it
NEIGHBOUR_PX = 6.0  # light of stars this far away reaches the columns of a trigger
FARTHEST_EDGE = 20.0  # columns, and lengths of a trigger: what is farther from the border does not feel it
FARTHEST_ONSET_ROWS = 3000.0


def describe_stars(amplifier: Amplifier, triggers: pd.DataFrame) -> pd.DataFrame:
    """Describe the star of each trigger and the stars beside it.

    Parameters
    ----------
    amplifier : Amplifier
    triggers : DataFrame
        With ``x``, ``row_start``, ``row_stop``, ``row_peak`` and ``amplitude_e``.

    Returns
    -------
    DataFrame
        `STAR_FEATURES`, float64; NaN where there is no star.

    Notes
    -----
    ``star_height``: log10 of the light of the nearest star's central pixel in a row over the pixel's noise, a star
    within `OWN_STAR_PX`. ``relative_amplitude``: log10 of the change over that star's own flux. ``neighbour_height``:
    log10 of the light of all other stars within `NEIGHBOUR_PX` at the place of the trigger over the noise;
    ``neighbour_distance_px``: to the nearest of them. ``level_sigma``: log10 of the baseline above the sky in units of
    the sky's noise, 0 where it is below. ``onset_rows``: rows since the last onset of a streak within `NEIGHBOUR_PX`
    (negative before it), where onsets are known. ``edge_px``, ``edge_lengths``: columns to the border, and
    lengths of the trigger to the first or last row, at most `FARTHEST_EDGE`.
    """
    x = triggers["x"].to_numpy(dtype=np.float64)
    start, stop, peak = (triggers[name].to_numpy(dtype=np.float64) for name in ("row_start", "row_stop", "row_peak"))
    column = np.clip(np.round(x).astype(np.int64), 0, amplifier.n_columns - 1)
    block = amplifier.block_of(peak.astype(np.int64))
    sigma = amplifier.sigma_e[0, column, block].astype(np.float64)
    near = _NearStars(amplifier, x)
    own = near.nearest(OWN_STAR_PX)
    known = np.append(near.x, np.nan), np.append(near.flux, np.nan)  # -1, no star, reads the last
    own_distance, flux = np.abs(known[0][own] - x), known[1][own]
    light, distance = near.others(own, amplifier.psf_sigma_px)
    level = (amplifier.baseline_e[0, column, block] - amplifier.sky_e) / amplifier.sky_sigma_e
    edge_rows = np.minimum(start, amplifier.n_rows - 1 - stop) / (stop - start + 1)
    return pd.DataFrame(
        {
            "star_height": _log10(flux * pixel_profile(0.0, amplifier.psf_sigma_px) / sigma),
            "star_distance_px": own_distance,
            "relative_amplitude": _log10(np.abs(triggers["amplitude_e"].to_numpy(np.float64)) / flux),
            "neighbour_height": _log10(light / sigma),
            "neighbour_distance_px": distance,
            "level_sigma": np.log10(1 + np.maximum(level, 0)),
            "onset_rows": near.since_onset(peak + (amplifier.readout.first_row or 0)),
            "edge_px": np.minimum(np.minimum(x, amplifier.n_columns - 1 - x), FARTHEST_EDGE),
            "edge_lengths": np.clip(edge_rows, 0, FARTHEST_EDGE),
        },
        index=triggers.index,
    )[list(STAR_FEATURES)]


def star_lags(amplifier: Amplifier) -> np.ndarray:
    """File row at which the own time of each streak is 0, but for a number that all share; NaN where unknown, (s,)."""
    y0 = amplifier.streaks["y0"].to_numpy(dtype=np.float64)
    if "lag_rows" not in amplifier.streaks:
        return y0
    found = amplifier.streaks["lag_rows"].to_numpy(dtype=np.float64)
    both = np.isfinite(y0) & np.isfinite(found)
    if not both.any():
        return found if np.isfinite(found).any() else y0
    return np.where(np.isfinite(found), found + np.median(y0[both] - found[both]), y0)


class _NearStars:
    """Stars within `NEIGHBOUR_PX` of each place, as index pairs."""

    def __init__(self, amplifier: Amplifier, x: np.ndarray) -> None:
        order = np.argsort(amplifier.streaks["x"].to_numpy(np.float64), kind="stable")
        self.x, self.flux, self.y0 = (
            amplifier.streaks[name].to_numpy(dtype=np.float64)[order] for name in ("x", "flux_e_row", "y0")
        )
        first, last = np.searchsorted(self.x, x - NEIGHBOUR_PX), np.searchsorted(self.x, x + NEIGHBOUR_PX)
        self._x, self._n = x, len(x)
        self._place = np.repeat(np.arange(len(x)), last - first)
        offsets = np.arange(len(self._place)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
        self._star = np.repeat(first, last - first) + offsets
        self._distance = np.abs(self.x[self._star] - x[self._place])

    def nearest(self, within_px: float) -> np.ndarray:
        """Index of the nearest star within some pixels, -1 without one."""
        known, places = (np.stack([np.zeros_like(x), x], axis=1) for x in (self.x, self._x))
        return nearest_place(known, places, within_px)

    def others(self, own: np.ndarray, sigma_px: float) -> tuple[np.ndarray, np.ndarray]:
        """Light at each place of all stars but its own (electrons per row), and distance of the nearest of them."""
        is_other = self._star != own[self._place]
        place, star, away = self._place[is_other], self._star[is_other], self._distance[is_other]
        light = np.bincount(place, weights=self.flux[star] * pixel_profile(away, sigma_px), minlength=self._n)
        distance = np.full(self._n, np.inf)
        np.minimum.at(distance, place, away)
        return np.where(light > 0, light, np.nan), np.where(np.isfinite(distance), distance, np.nan)

    def since_onset(self, sequence_row: np.ndarray) -> np.ndarray:
        """Rows since the nearest onset of a streak near each place, NaN where none is known or near in time."""
        rows = sequence_row[self._place] - self.y0[self._star]
        best = np.full(self._n, np.nan)
        order = np.argsort(-np.abs(rows), kind="stable")
        order = order[np.abs(rows[order]) <= FARTHEST_ONSET_ROWS]
        best[self._place[order]] = rows[order]
        return best


def _log10(values: np.ndarray) -> np.ndarray:
    return np.log10(np.where(values > 0, values, np.nan))
