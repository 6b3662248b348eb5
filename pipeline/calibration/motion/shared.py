"""Learn the image motion, focus and transparency that the stars of an amplifier share, and subtract them.

Bright, isolated stars (anchors) measure the air in every row of a star's own time, row - ``y0``. Each star is then
corrected by what the *other* stars predict, so that an event on one star stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import pandas as pd

from shutterless.pipeline.calibration.motion.lags import LagFinder, find_lags, find_outliers, refine_lag
from shutterless.pipeline.calibration.motion.model import (
    N_LANES,
    N_STATES,
    SHIFT,
    STAR_HALF_WIDTH,
    WIDTH,
    first_columns,
)
from shutterless.pipeline.calibration.motion.pace import MotionPace
from shutterless.pipeline.calibration.motion.star_series import MIN_GAIN, SharedSeries
from shutterless.pipeline.calibration.motion.states import Streak, independent_groups, limit_states, measure_states
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.readout import Readout

MAX_ANCHORS = 24  # more add little: the brightest weigh most
MIN_ANCHORS = 4  # fewer cannot outvote one star with an event
MIN_ANCHOR_SIGMA = 3.0  # light of the central pixel in one row over its noise
MIN_FOLLOW_SIGMA = 8.0  # below, the noise of a row exceeds the motion and the linear fit serves as well
MIN_FLUX_SIGMA = 1.0  # a fainter streak moves by less than its noise (0.4 px of r = 14 leave 1.05 sigma)
MAX_NEIGHBOURS = 0.2  # of an anchor: light of others within its modelled columns, over its own
# after a streak's onset, and before its end, that are not used; at any row rate, since the point-spread function smears
# them
BEGIN_ROWS = 8
# the air is still where the anchors' shifts correlate less than this in the mean over some lags: half of `MIN_GAIN`,
# and 5 times the scatter for 24 anchors of 12,000 rows; motion of 0.4 px has 0.98
STILL_CORRELATION = 0.5 * MIN_GAIN
_N_PASSES = 2  # of weights, lags and outliers


@dataclass(frozen=True)
class SharedMotion:
    """States that the stars of an amplifier share.

    Parameters
    ----------
    channels : dict of int to SharedSeries
        Those of `LIGHT`, `SHIFT` and `WIDTH` in which the stars predict each other.
    predicted : dict of int to dict of int to ndarray
        Prediction for each anchor from the other anchors, by ``streak_id`` and channel, shape (t,).
    lags : dict of int to float
        File row at which the own time of each aligned star is 0, but for one number that all of an amplifier share, by
        ``streak_id``. `subtract_shared` adds the stars that it aligns.
    finder : LagFinder
    sigma_px : float
        Width of the point-spread function in one row, without the motion that widens its mean.
    pace : MotionPace
    """

    channels: dict[int, SharedSeries]
    predicted: dict[int, dict[int, np.ndarray]]
    lags: dict[int, float]
    finder: LagFinder
    sigma_px: float
    pace: MotionPace


def bright_streaks(
    sigma_e: np.ndarray,
    level_e: np.ndarray,
    sky_e: float,
    streaks: pd.DataFrame,
    sigma_px: float,
    readout: Readout,
    n_rows: int,
) -> tuple[list[Streak], np.ndarray]:
    """Select streaks bright enough to show motion, brightest first, with their crowding.

    Parameters
    ----------
    sigma_e : ndarray of float32, shape (x, b)
    level_e : ndarray, shape (x,)
        Steady level of each column (electrons per pixel).
    sky_e : float
    streaks : DataFrame
        With ``streak_id``, ``x``, ``flux_e_row`` and ``y0``.
    sigma_px : float
        Width of the mean point-spread function.
    readout : Readout
    n_rows : int
        Of the file.

    Returns
    -------
    streaks : list of Streak
    crowding : ndarray, shape (s,)
        Light of other streaks in the modelled columns over the streak's own.
    """
    n_columns = len(level_e)
    noise = sigma_e.mean(axis=1)
    order = streaks.sort_values("flux_e_row", ascending=False, kind="stable")
    middle = np.clip(np.round(order["x"].to_numpy()).astype(np.int64), 0, n_columns - 1)
    order = order[order["flux_e_row"].to_numpy() * pixel_profile(0, sigma_px) > MIN_FLUX_SIGMA * noise[middle]]
    x, flux, first = order["x"].to_numpy(), order["flux_e_row"].to_numpy(), first_columns(order["x"], n_columns)
    columns = np.minimum(first[:, None] + np.arange(2 * STAR_HALF_WIDTH + 1), n_columns - 1)
    own = flux[:, None] * pixel_profile(columns - x[:, None], sigma_px)
    all_light = np.bincount(columns.ravel(), weights=own.ravel(), minlength=n_columns)
    settled = readout.steady_rows(n_rows)
    found, crowding = [], []
    for row, light, start in zip(order.itertuples(), own, first, strict=True):
        here = slice(int(start), min(int(start) + 2 * STAR_HALF_WIDTH + 1, n_columns))
        light = light[: here.stop - here.start]
        others = all_light[here] - light
        lag = float(row.y0) - (readout.first_row or 0)
        found.append(
            Streak(
                streak_id=int(row.streak_id), x=row.x, flux_e_row=row.flux_e_row, columns=here, sigma_e=sigma_e[here],
                noise_e=noise[here], steady_e=level_e[here] - sky_e - others,
                visible=_visible_rows(lag, settled, readout, n_rows), settled=settled, lag=lag,
            )
        )  # fmt: skip
        crowding.append(others.sum() / light.sum())
    return found, np.array(crowding)


def _visible_rows(lag: float, settled: slice, readout: Readout, n_rows: int) -> slice:
    """Rows in which a streak is visible for certain: from its onset to its end if known, else the steady rows."""
    if np.isnan(lag):
        return settled
    start = max(int(lag) + BEGIN_ROWS, 0) if settled.start else 0
    stop = n_rows if readout.close_row is None else min(int(lag) + readout.close_row - BEGIN_ROWS, n_rows)
    return slice(min(start, n_rows), max(stop, 0))


def learn_motion(
    residual: np.ndarray, streaks: list[Streak], crowding: np.ndarray, sigma_px: float, readout: Readout
) -> SharedMotion | None:
    """Learn the shared motion from the bright, isolated stars of an amplifier.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
        In units of σ; NaN where masked.
    streaks, crowding
        From `bright_streaks`.
    sigma_px : float
    readout : Readout
        Its ``n_transit`` is the largest lag between two stars.

    Returns
    -------
    SharedMotion or None
        None if fewer than `MIN_ANCHORS` stars can be aligned, or if they do not predict each other (still air).
    """
    pace = MotionPace.of(readout)
    anchors = [
        streak
        for streak, share in zip(streaks, crowding, strict=True)
        if share < MAX_NEIGHBOURS
        and streak.flux_e_row * pixel_profile(0, sigma_px) > MIN_ANCHOR_SIGMA * streak.noise_e.max()
    ][:MAX_ANCHORS]
    if len(anchors) < MIN_ANCHORS:
        return None
    if _is_still(residual, anchors, sigma_px, pace):
        return None
    anchors, states, _, valid = _measure_anchors(residual, anchors, sigma_px, pace)
    if len(anchors) < MIN_ANCHORS:
        return None
    moving = [np.var(state[SHIFT, used]) for state, used in zip(states, valid, strict=True)]
    narrow = float(np.sqrt(max(sigma_px**2 - np.median(moving), 0.25 * sigma_px**2)))
    anchors, states, errors, valid = _measure_anchors(residual, anchors, narrow, pace)
    if len(anchors) < MIN_ANCHORS:
        return None
    narrow *= 1 + float(np.median([np.mean(state[WIDTH, used]) for state, used in zip(states, valid, strict=True)]))
    states, _ = limit_states(states, valid, errors)
    # focus changes too slowly to give a lag
    lags = np.array([s.lag for s in anchors])
    lags, finder = find_lags(states[:, [SHIFT]], valid, lags, readout.n_transit, pace.coarse_rows)
    known = np.flatnonzero(~np.isnan(lags))
    if len(known) < MIN_ANCHORS:
        return None
    anchors = [anchors[k] for k in known]
    lags = np.round(lags[known]).astype(int)
    return _share(anchors, states[known], valid[known], errors[known], lags, finder, narrow, pace)


def _measure_anchors(
    residual: np.ndarray, streaks: list[Streak], sigma_px: float, pace: MotionPace
) -> tuple[list[Streak], np.ndarray, np.ndarray, np.ndarray]:
    """Stars measured for long enough, their states, errors and valid rows.

    A fit may lose its star for good; such a star has no valid rows and is left out.
    """
    states, errors = measure_states(residual, streaks, sigma_px, follow=True)
    valid = np.isfinite(states[:, SHIFT])
    long_enough = valid.sum(axis=1) >= pace.min_anchor_rows
    kept = [streak for streak, long in zip(streaks, long_enough, strict=True) if long]
    return kept, states[long_enough], errors[long_enough], valid[long_enough]


def _is_still(residual: np.ndarray, streaks: list[Streak], sigma_px: float, pace: MotionPace) -> bool:
    """Whether the shifts of the anchors are white noise; then there is no shared motion to fit.

    Motion is alike in neighbouring rows, so the variance that other stars could predict shows in a star's own
    autocorrelation. The linear fit is good enough for this, however large the motion.
    """
    states, errors = measure_states(residual, streaks, sigma_px, follow=False)
    valid = np.isfinite(states[:, SHIFT])
    if np.sum(valid.sum(axis=1) >= pace.min_anchor_rows) < MIN_ANCHORS:
        return False
    shifts = limit_states(states, valid, errors)[0][:, SHIFT]
    correlation = _autocorrelation(shifts, errors[:, SHIFT] ** -2.0, np.array(pace.still_lags))
    return bool(correlation.mean() < STILL_CORRELATION)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _autocorrelation(series, weight, lags):  # pragma: no cover - compiled
    """Autocorrelation of series (s, t), 0 where unknown, at each lag; weighted mean over the stars."""
    found = np.zeros(len(lags))
    power = 0.0
    for star in range(len(series)):
        own, w = series[star], weight[star]
        for i in range(len(lags)):
            later, total = own[lags[i] :], 0.0
            for t in range(len(later)):
                total += np.float64(own[t]) * later[t]
            found[i] += w * total
        total = 0.0
        for t in range(len(own)):
            total += np.float64(own[t]) * own[t]
        power += w * total
    return found / power


def _share(
    streaks: list[Streak],
    states: np.ndarray,
    valid: np.ndarray,
    errors: np.ndarray,
    lags: np.ndarray,
    finder: LagFinder,
    sigma_px: float,
    pace: MotionPace,
) -> SharedMotion | None:
    """Average aligned stars, weighted by how well they follow the others."""
    weight = errors.T**-2.0
    used = {channel: valid.copy() for channel in range(N_STATES)}
    for final in [False] * _N_PASSES + [True]:
        channels = {
            channel: SharedSeries(states[:, channel], used[channel], weight[channel], lags, windows)
            for channel, windows in pace.shared_windows.items()
        }
        if final:
            break
        for channel, shared in channels.items():
            for star, (own, others) in enumerate(zip(states[:, channel], shared.predicted, strict=True)):
                used[channel][star] = valid[star] & ~find_outliers(own, others, valid[star], pace.outlier_windows)
                rows = used[channel][star]
                scatter = _mean_square(own, others, rows)
                weight[channel, star] = 1 / max(scatter, errors[star, channel] ** 2)
        both = np.stack([channels[SHIFT].predicted, channels[WIDTH].predicted], axis=1)
        lags = lags + [
            refine_lag(star[[SHIFT, WIDTH]], rows, predicted, pace.refine_rows)
            for star, rows, predicted in zip(states, valid, both, strict=True)
        ]
    channels = {channel: shared for channel, shared in channels.items() if shared.gain > MIN_GAIN}
    if SHIFT not in channels:  # without shared motion the lags mean nothing
        return None
    return SharedMotion(
        channels=channels,
        predicted={
            streak.streak_id: {channel: shared.predicted[k] for channel, shared in channels.items()}
            for k, streak in enumerate(streaks)
        },
        lags={streak.streak_id: float(lag) for streak, lag in zip(streaks, lags, strict=True)},
        finder=finder,
        sigma_px=sigma_px,
        pace=pace,
    )


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _mean_square(own, others, rows):  # pragma: no cover - compiled
    """Mean square of the difference of two series in the given rows; infinite without any."""
    total, n = 0.0, 0
    for t in range(len(own)):
        left = np.float64(own[t] - others[t])
        total += left * left if rows[t] else 0.0
        n += rows[t]
    return total / n if n else np.inf


def subtract_shared(residual: np.ndarray, streaks: list[Streak], motion: SharedMotion) -> list[bool]:
    """Subtract from each streak in turn, in place, the motion that the other stars predict for it.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
    streaks : list of Streak
        Where two overlap, the second is fitted after the first was corrected.
    motion : SharedMotion

    Returns
    -------
    list of bool
        Streaks that were corrected. A streak of unknown lag is not, nor one whose residual would not get smaller.
    """
    helped = [False] * len(streaks)
    peak = pixel_profile(0, motion.sigma_px)
    for place in independent_groups(streaks):
        following = [k for k in place if streaks[k].flux_e_row * peak > MIN_FOLLOW_SIGMA * streaks[k].noise_e.mean()]
        linear = [k for k in place if k not in following]
        for chosen, follow in ((following, True), (linear, False)):
            for start in range(0, len(chosen), N_LANES):
                some = chosen[start : start + N_LANES]
                states, errors = measure_states(residual, [streaks[k] for k in some], motion.sigma_px, follow=follow)
                for k, state, error in zip(some, states, errors, strict=True):
                    helped[k] = _subtract_predicted(residual, streaks[k], state, error, motion)
    return helped


def _subtract_predicted(
    residual: np.ndarray, streak: Streak, state: np.ndarray, error: np.ndarray, motion: SharedMotion
) -> bool:
    """Twin of `subtract_shared` for a streak of measured states (3, t)."""
    valid = np.isfinite(state[SHIFT])
    if not valid.any():
        return False
    own, mean = (found[0] for found in limit_states(state[None], valid[None], error[None]))
    assumed = np.repeat(mean[:, None], own.shape[1], axis=1)
    helped = False
    predicted, lag = _predict(streak, own, valid, motion)
    for channel, series in predicted.items():
        if _follows(own[channel], series, valid):
            assumed[channel] += series
            helped = True
    if helped:
        motion.lags[streak.streak_id] = lag
        streak.subtract(residual, assumed, motion.sigma_px, motion.pace.baseline_blocks)
    return helped


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _follows(own, series, valid):  # pragma: no cover - compiled
    """Whether subtracting the prediction makes the variance of a star's own series smaller."""
    gain = 0.0
    for t in range(len(own)):
        predicted = np.float64(series[t])
        gain += (2 * own[t] - predicted) * predicted if valid[t] else 0.0
    return gain > 0


def _predict(
    streak: Streak, own: np.ndarray, valid: np.ndarray, motion: SharedMotion
) -> tuple[dict[int, np.ndarray], float]:
    """Prediction for a streak from the other stars, by channel, and its lag; empty if that is not known nor found."""
    if streak.streak_id in motion.predicted:
        return motion.predicted[streak.streak_id], motion.lags[streak.streak_id]
    lag = streak.lag
    if np.isnan(lag):
        lag = motion.finder.find(own[[SHIFT]], valid)
    if np.isnan(lag):
        return {}, lag
    usable = [channel for channel in (SHIFT, WIDTH) if channel in motion.channels]
    predicted = np.stack([motion.channels[channel].at(round(lag)) for channel in usable])
    refined = round(lag) + refine_lag(own[usable], valid, predicted, motion.pace.refine_rows)
    return {channel: shared.at(refined) for channel, shared in motion.channels.items()}, float(refined)
