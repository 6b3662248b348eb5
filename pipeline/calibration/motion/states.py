"""Measure the states of bright streaks in every row, and subtract the light that they change."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from shutterless.pipeline.calibration.levels.baseline import running_level
from shutterless.pipeline.calibration.motion.columns import BLOCK_ROWS, block_averages, half_bits, subtract_light
from shutterless.pipeline.calibration.motion.model import (
    N_LANES,
    N_STATES,
    follow_streaks,
    linear_streak,
    steady_fit,
    streak_light,
)
from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA, keep_known, median_absolute

STATE_CLIP_SIGMA = 5.0  # of a star's states around their mean


@dataclass(frozen=True)
class Streak:
    """One star with the pixels around its streak.

    Parameters
    ----------
    streak_id : int
    x, flux_e_row : float
        Column on the amplifier; electrons per row.
    columns : slice
    sigma_e : ndarray of float32, shape (w, b)
        Noise of the columns in blocks of `BLOCK_ROWS` rows.
    noise_e : ndarray of float32, shape (w,)
        ``sigma_e`` averaged over the file.
    steady_e : ndarray of float64, shape (w,)
        Mean light of the star on the columns.
    visible, settled : slice
        File rows in which the streak is visible for certain, and those of them outside ramp and drain, where levels are
        rough.
    lag : float
        File row at which the star's own time, row - ``y0``, is 0; NaN where unknown.
    """

    streak_id: int
    x: float
    flux_e_row: float
    columns: slice
    sigma_e: np.ndarray
    noise_e: np.ndarray
    steady_e: np.ndarray
    visible: slice
    settled: slice
    lag: float

    def subtract(self, residual: np.ndarray, state: np.ndarray, sigma_px: float, window_blocks: int) -> None:
        """Subtract, in place, the light of a star of these states minus its mean over the baseline's window."""
        light = streak_light(state, self.x - self.columns.start, self.flux_e_row, sigma_px, len(self.sigma_e))
        rows = (self.visible.start, min(self.visible.stop, light.shape[1]))
        means = np.empty((-(-light.shape[1] // BLOCK_ROWS), len(light)), dtype=np.float32)
        block_averages(light, *rows, means)
        level = running_level(means, window_blocks)
        subtract_light(half_bits(residual), self.columns.start, light, level, self.sigma_e, *rows)


def measure_states(
    residual: np.ndarray, streaks: list[Streak], sigma_px: float, *, follow: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the states of streaks in every row.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
        In units of σ; NaN where masked.
    streaks : list of Streak
    sigma_px : float
    follow : bool
        Whether the fit follows the motion (`follow_streaks`) or is linear around steady air.

    Returns
    -------
    states : ndarray of float32, shape (s, 3, t)
        NaN in ramp and drain and where masked.
    errors : ndarray of float64, shape (s, 3)
        Standard errors.
    """
    first = np.array([streak.columns.start for streak in streaks])
    x = np.array([streak.x for streak in streaks]) - first
    flux = np.array([streak.flux_e_row for streak in streaks])
    sigma = np.stack([streak.sigma_e for streak in streaks])
    noise = np.stack([streak.noise_e for streak in streaks])
    steady = np.stack([streak.steady_e for streak in streaks])
    light, gain, errors = steady_fit(noise.astype(np.float64), x, flux, sigma_px)
    states = np.empty((len(streaks), N_STATES, residual.shape[1]), dtype=np.float32)
    if follow:
        for start in range(0, len(streaks), N_LANES):
            some = slice(start, start + N_LANES)
            states[some] = follow_streaks(
                residual, first[some], sigma[some], noise[some], steady[some], x[some], flux[some], sigma_px
            )
    else:
        for k, state in enumerate(states):
            linear_streak(residual, first[k], sigma[k], steady[k], light[k], gain[k], state)
    for streak, state in zip(streaks, states, strict=True):
        state[:, : streak.settled.start] = state[:, streak.settled.stop :] = np.nan
    return states, errors


def limit_states(states: np.ndarray, valid: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Subtract the mean of each state, and limit the rest so that a cosmic ray does not spread.

    Parameters
    ----------
    states : ndarray of float32, shape (s, 3, t)
    valid : ndarray of bool, shape (s, t)
    errors : ndarray, shape (s, 3)

    Returns
    -------
    limited : ndarray of float32, shape (s, 3, t)
        0 where unknown.
    means : ndarray of float32, shape (s, 3)
    """
    limited, means = np.empty_like(states), np.empty(states.shape[:2], dtype=np.float32)
    for out, mean, state, used, error in zip(limited, means, states, valid, errors, strict=True):
        _limit_star(state, used, error, out, mean)
    return limited, means


@numba.njit(cache=True, nogil=True)
def _limit_star(state, used, error, out, mean):  # pragma: no cover - compiled
    """Twin of `limit_states` for one star."""
    known = np.empty(len(used), dtype=np.float32)
    for channel in range(N_STATES):
        values, limited = state[channel], out[channel]
        n = keep_known(values, used, known)
        total = 0.0
        for t in range(n):
            total += known[t]
        centre = np.float32(total / max(n, 1))
        for t in range(n):
            known[t] -= centre
        scatter = MAD_TO_SIGMA * median_absolute(known[:n]) if n else 0.0
        reach = np.float32(STATE_CLIP_SIGMA * max(scatter, error[channel]))
        for t in range(len(values)):
            value = min(max(values[t] - centre, -reach), reach)
            limited[t] = value if used[t] else np.float32(0)
        mean[channel] = centre


def independent_groups(streaks: list[Streak]) -> list[list[int]]:
    """Group the indices of streaks: no two in a group overlap, and overlapping streaks keep their order."""
    depth: list[int] = []
    for streak in streaks:
        under = [
            below
            for other, below in zip(streaks, depth, strict=False)
            if other.columns.start < streak.columns.stop and streak.columns.start < other.columns.stop
        ]
        depth.append(max(under, default=-1) + 1)
    return [[k for k, own in enumerate(depth) if own == group] for group in range(max(depth, default=-1) + 1)]
