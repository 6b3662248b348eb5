"""Image motion, focus and transparency that the stars of an amplifier share, taken out of every streak.

Bright, lonely stars (anchors) say what the air did, row by row of star time; each star is then corrected by what the
*others* did, so that nothing that happens to one star alone is touched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from shutterless.pipeline.levels import BLOCK_ROWS, KNOT_BLOCKS, WINDOW_ROWS, interpolate_blocks, running_mean
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.readout import Readout
from shutterless.pipeline.star_time import MIN_GAIN, LagFinder, SharedSeries, find_lags, find_outliers, refine_lag
from shutterless.pipeline.streak_model import (
    HALF_WIDTH,
    LIGHT,
    N_STATES,
    SHIFT,
    WIDTH,
    first_columns,
    follow_state,
    linear_state,
    streak_light,
)

MAX_ANCHORS = 24  # more add little: the brightest weigh most
MIN_ANCHORS = 4  # fewer cannot outvote the one on which something happens
MIN_ANCHOR_SIGMA = 3.0  # light of the central pixel in one row over its noise
MIN_FOLLOW_SIGMA = 8.0  # below, the noise of a row exceeds the motion and the linear fit serves as well
MIN_FLUX_SIGMA = 1.0  # a fainter streak moves by less than its noise (0.4 px of r = 14 leave 1.05 sigma)
MIN_ROWS = 512  # of an anchor, after the ramp; fewer tell nothing of motion that changes in 30
MAX_NEIGHBOURS = 0.2  # of an anchor: light of others within its modelled columns, over its own
# rows over which the other stars are averaged; set on simulated motion of 0.1 s, focus of 1 s and cloud of 5 s
WINDOWS = {LIGHT: (5, 15, 45, 135), SHIFT: (1, 5, 15), WIDTH: (1, 5, 15, 45)}
BEGIN_ROWS = 8  # after its onset, and before its end, in which a star says nothing
CLIP_SIGMA = 5.0
_N_PASSES = 2  # of weights, lags and outliers


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
    steady_e : ndarray of float64, shape (w,)
        Mean light of the star on them.
    shines, settled : slice
        File rows in which it shines for certain, and those among them that are neither ramp nor drain, whose levels are
        rough.
    lag : float
        File row of its star time 0; NaN where unknown.
    """

    streak_id: int
    x: float
    flux_e_row: float
    columns: slice
    sigma_e: np.ndarray
    steady_e: np.ndarray
    shines: slice
    settled: slice
    lag: float

    def sigma_rows(self, n_rows: int) -> np.ndarray:
        """Noise in every row, (w, t), constant over blocks."""
        return np.repeat(self.sigma_e, BLOCK_ROWS, axis=1)[:, :n_rows]

    def states(self, residual: np.ndarray, sigma_px: float, *, follow: bool) -> tuple[np.ndarray, np.ndarray]:
        """State in every row (3, t), NaN in ramp and drain and where masked, and its standard error (3,)."""
        patch = residual[self.columns].astype(np.float32) * self.sigma_rows(residual.shape[1])
        patch += self.steady_e[:, None].astype(np.float32)
        fit = follow_state if follow else linear_state
        noise = self.sigma_e.mean(axis=1)
        state, error = fit(patch, noise, self.x - self.columns.start, self.flux_e_row, sigma_px)
        state[:, : self.settled.start] = state[:, self.settled.stop :] = np.nan
        return state, error

    def subtract(self, residual: np.ndarray, state: np.ndarray, sigma_px: float) -> None:
        """Take off, in place, what differs from the mean over the baseline's window when the star has these states."""
        light = streak_light(state, self.x - self.columns.start, self.flux_e_row, sigma_px, len(self.sigma_e))
        n_rows = light.shape[1]
        light[:, : self.shines.start] = light[:, self.shines.stop :] = np.nan
        padded = np.full((len(light), -(-n_rows // BLOCK_ROWS) * BLOCK_ROWS), np.nan, dtype=np.float32)
        padded[:, :n_rows] = light
        blocks = padded.reshape(len(light), -1, BLOCK_ROWS)
        count = np.isfinite(blocks).sum(axis=2)
        means = np.where(count > 0, np.nansum(blocks, axis=2) / np.maximum(count, 1), np.nan).T
        level = interpolate_blocks(running_mean(means, WINDOW_ROWS // BLOCK_ROWS, KNOT_BLOCKS), 0, n_rows).T
        departure = np.nan_to_num((light - level) / self.sigma_rows(n_rows))
        residual[self.columns] = residual[self.columns].astype(np.float32) - departure


@dataclass(frozen=True)
class SharedMotion:
    """What the stars of an amplifier do together.

    Parameters
    ----------
    channels : dict of int to SharedSeries
        Of `LIGHT`, `SHIFT` and `WIDTH` those in which the stars do predict each other.
    predicted : dict of int to dict of int to ndarray
        What the others say of each anchor, by ``streak_id`` and channel, shape (t,).
    finder : LagFinder
    sigma_px : float
        Width of the point-spread function in one row, without the motion that widens its mean.
    """

    channels: dict[int, SharedSeries]
    predicted: dict[int, dict[int, np.ndarray]]
    finder: LagFinder
    sigma_px: float


def bright_streaks(
    sigma_e: np.ndarray,
    level_e: np.ndarray,
    sky_e: float,
    streaks: pd.DataFrame,
    sigma_px: float,
    readout: Readout,
    n_rows: int,
) -> tuple[list[Streak], np.ndarray]:
    """Streaks whose motion shows, brightest first, and the share of neighbours in their light.

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
    """
    n_columns = len(level_e)
    noise = sigma_e.mean(axis=1)
    order = streaks.sort_values("flux_e_row", ascending=False, kind="stable")
    middle = np.clip(np.round(order["x"].to_numpy()).astype(np.int64), 0, n_columns - 1)
    order = order[order["flux_e_row"].to_numpy() * pixel_profile(0, sigma_px) > MIN_FLUX_SIGMA * noise[middle]]
    x, flux, first = order["x"].to_numpy(), order["flux_e_row"].to_numpy(), first_columns(order["x"], n_columns)
    columns = np.minimum(first[:, None] + np.arange(2 * HALF_WIDTH + 1), n_columns - 1)
    own = flux[:, None] * pixel_profile(columns - x[:, None], sigma_px)
    everyone = np.bincount(columns.ravel(), weights=own.ravel(), minlength=n_columns)
    settled = readout.steady_rows(n_rows)
    found, crowding = [], []
    for row, light, start in zip(order.itertuples(), own, first, strict=True):
        here = slice(int(start), min(int(start) + 2 * HALF_WIDTH + 1, n_columns))
        light = light[: here.stop - here.start]
        others = everyone[here] - light
        lag = float(row.y0) - (readout.first_row or 0)
        found.append(
            Streak(
                streak_id=int(row.streak_id), x=row.x, flux_e_row=row.flux_e_row, columns=here, sigma_e=sigma_e[here],
                steady_e=level_e[here] - sky_e - others, shines=_shining_rows(lag, settled, readout, n_rows),
                settled=settled, lag=lag,
            )
        )  # fmt: skip
        crowding.append(others.sum() / light.sum())
    return found, np.array(crowding)


def _shining_rows(lag: float, settled: slice, readout: Readout, n_rows: int) -> slice:
    """Rows in which a star shines for certain: from its onset to its end where they are known, else the steady ones."""
    if np.isnan(lag):
        return settled
    start = max(int(lag) + BEGIN_ROWS, 0) if settled.start else 0
    stop = n_rows if readout.close_row is None else min(int(lag) + readout.close_row - BEGIN_ROWS, n_rows)
    return slice(min(start, n_rows), max(stop, 0))


def learn_motion(
    residual: np.ndarray, streaks: list[Streak], crowding: np.ndarray, sigma_px: float, n_transit: int
) -> SharedMotion | None:
    """Learn from the bright, lonely stars of an amplifier what all of them do.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
        In units of σ; NaN where masked.
    streaks, crowding
        From `bright_streaks`.
    sigma_px : float
    n_transit : int
        Largest lag between two stars (rows).

    Returns
    -------
    SharedMotion or None
        None where fewer than `MIN_ANCHORS` stars can be aligned or they do not predict each other: the air is still.
    """
    lonely = [
        streak
        for streak, share in zip(streaks, crowding, strict=True)
        if share < MAX_NEIGHBOURS
        and streak.flux_e_row * pixel_profile(0, sigma_px) > MIN_ANCHOR_SIGMA * streak.sigma_e.mean(axis=1).max()
    ][:MAX_ANCHORS]
    if len(lonely) < MIN_ANCHORS:
        return None
    states, valid, _ = _measure(residual, lonely, sigma_px)
    seen_long = valid.sum(axis=1) >= MIN_ROWS
    lonely = [streak for streak, long in zip(lonely, seen_long, strict=True) if long]
    if len(lonely) < MIN_ANCHORS:
        return None
    states, valid = states[seen_long], valid[seen_long]
    moving = [np.var(state[SHIFT, seen]) for state, seen in zip(states, valid, strict=True)]
    narrow = float(np.sqrt(max(sigma_px**2 - np.median(moving), 0.25 * sigma_px**2)))
    states, valid, errors = _measure(residual, lonely, narrow)
    narrow *= 1 + float(np.median([np.mean(state[WIDTH, seen]) for state, seen in zip(states, valid, strict=True)]))
    states = _limit(states, valid, errors)
    # focus changes too slowly to tell a lag by
    lags, finder = find_lags(states[:, [SHIFT]], valid, np.array([s.lag for s in lonely]), n_transit)
    known = np.flatnonzero(~np.isnan(lags))
    if len(known) < MIN_ANCHORS:
        return None
    lonely = [lonely[k] for k in known]
    return _share(lonely, states[known], valid[known], errors[known], np.round(lags[known]).astype(int), finder, narrow)


def _measure(residual: np.ndarray, streaks: list[Streak], sigma_px: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States (s, 3, t), which of them are known (s, t), and their errors (s, 3)."""
    fits = [streak.states(residual, sigma_px, follow=True) for streak in streaks]
    states = np.stack([state for state, _ in fits])
    return states, np.all(np.isfinite(states), axis=1), np.stack([error for _, error in fits])


def _limit(states: np.ndarray, valid: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """States (s, 3, t) around their means, limited so that a cosmic ray does not spread; 0 where unknown."""
    limited = np.zeros_like(states)
    for out, state, seen, error in zip(limited, states, valid, errors, strict=True):
        if seen.any():
            around = state[:, seen] - state[:, seen].mean(axis=1, keepdims=True)
            spread = np.maximum(1.4826 * np.median(np.abs(around), axis=1), error)[:, None]
            out[:, seen] = np.clip(around, -CLIP_SIGMA * spread, CLIP_SIGMA * spread)
    return limited


def _share(
    streaks: list[Streak],
    states: np.ndarray,
    valid: np.ndarray,
    errors: np.ndarray,
    lags: np.ndarray,
    finder: LagFinder,
    sigma_px: float,
) -> SharedMotion | None:
    """Average aligned stars, weighted by how well they follow the others."""
    weight = errors.T**-2.0
    seen = {channel: valid.copy() for channel in range(N_STATES)}
    for final in [False] * _N_PASSES + [True]:
        channels = {
            channel: SharedSeries(states[:, channel], seen[channel], weight[channel], lags, WINDOWS[channel])
            for channel in range(N_STATES)
        }
        if final:
            break
        for channel, shared in channels.items():
            for star, (own, others) in enumerate(zip(states[:, channel], shared.predicted, strict=True)):
                seen[channel][star] = valid[star] & ~find_outliers(own, others, valid[star])
                rows = seen[channel][star]
                scatter = np.mean((own - others)[rows] ** 2) if rows.any() else np.inf
                weight[channel, star] = 1 / max(scatter, errors[star, channel] ** 2)
        both = np.stack([channels[SHIFT].predicted, channels[WIDTH].predicted], axis=1)
        lags = lags + [refine_lag(s[[SHIFT, WIDTH]], v, p) for s, v, p in zip(states, valid, both, strict=True)]
    channels = {channel: shared for channel, shared in channels.items() if shared.gain > MIN_GAIN}
    if SHIFT not in channels:  # without shared motion the lags mean nothing
        return None
    return SharedMotion(
        channels=channels,
        predicted={
            streak.streak_id: {channel: shared.predicted[k] for channel, shared in channels.items()}
            for k, streak in enumerate(streaks)
        },
        finder=finder,
        sigma_px=sigma_px,
    )


def subtract_motion(residual: np.ndarray, streak: Streak, motion: SharedMotion) -> bool:
    """Take out of one streak, in place, what the other stars say happened to it.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
    streak : Streak
    motion : SharedMotion

    Returns
    -------
    bool
        Whether anything was subtracted: not where the star's lag cannot be told, nor what does not help it.
    """
    height = streak.flux_e_row * pixel_profile(0, motion.sigma_px) / streak.sigma_e.mean()
    state, error = streak.states(residual, motion.sigma_px, follow=bool(height > MIN_FOLLOW_SIGMA))
    valid = np.all(np.isfinite(state), axis=0)
    if not valid.any():
        return False
    own = _limit(state[None], valid[None], error[None])[0]
    assumed = np.repeat(state[:, valid].mean(axis=1)[:, None], own.shape[1], axis=1)
    helped = False
    for channel, series in _predict(streak, own, valid, motion).items():
        # a star follows the others where taking off what they predict leaves less than taking off nothing
        if 2 * np.sum(own[channel] * series, where=valid) > np.sum(series**2, where=valid):
            assumed[channel] += series
            helped = True
    if helped:
        streak.subtract(residual, assumed.astype(np.float32), motion.sigma_px)
    return helped


def _predict(streak: Streak, own: np.ndarray, valid: np.ndarray, motion: SharedMotion) -> dict[int, np.ndarray]:
    """What the others say of a streak, by channel; nothing where its lag is not known and not found."""
    if streak.streak_id in motion.predicted:
        return motion.predicted[streak.streak_id]
    lag = streak.lag
    if np.isnan(lag):
        lag = motion.finder.find(own[[SHIFT]], valid)
    if np.isnan(lag):
        return {}
    telling = [channel for channel in (SHIFT, WIDTH) if channel in motion.channels]
    told = np.stack([motion.channels[channel].at(round(lag)) for channel in telling])
    refined = round(lag) + refine_lag(own[telling], valid, told)
    return {channel: shared.at(refined) for channel, shared in motion.channels.items()}
