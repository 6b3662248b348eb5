"""Measure the strength of the serial trap of an amplifier from the covariance of neighbouring sky columns."""

from __future__ import annotations

import numba
import numpy as np
from scipy.optimize import brentq

from shutterless.pipeline.calibration.electrons import masked_rows
from shutterless.pipeline.calibration.serial_trap import serial_trap_response
from shutterless.pipeline.calibration.streaks.background import sky_level
from shutterless.pipeline.reading.instruments import SerialTrap

MAX_STRENGTH = 2.0  # times the profile's capacity; more is another effect
MIN_SIGNIFICANCE = 5.0  # of the covariance; below, no pixel is corrected
MAX_STARLIGHT = 0.1  # over the sky, in a column that is taken for sky
MIN_PAIRS = 100_000  # of neighbouring sky pixels; they give a strength of 1 to 8 %
COVARIANCE_CLIP_SIGMA = 5.0
_FAR_E = 500.0  # larger changes are no noise of a sky pixel


def measure_strength(electrons: np.ndarray, effect: SerialTrap) -> float:
    """Measure the strength of the serial trap.

    Parameters
    ----------
    electrons : ndarray of float32, shape (t, x)
        Bias-subtracted rows of the steady state as they were read, in electrons; NaN where saturated.
    effect : SerialTrap
        Of unit strength.

    Returns
    -------
    float
        Capacity over that of ``effect``. 0 if the covariance of neighbouring sky pixels is below `MIN_SIGNIFICANCE`
        errors, or if too few pixels are without a star.

    Notes
    -----
    Photon noise of neighbouring pixels is uncorrelated until the serial register passes some of it on. The lean of
    streaks is no good measure, since image motion and faint companions make streaks lean, too: on simulated frames its
    scatter was four times its error.
    """
    masked = masked_rows(electrons)
    electrons = electrons[~masked] if masked.any() else electrons
    if len(electrons) < 3:
        return 0.0
    level = _column_means(electrons)
    sky = sky_level(level[np.isfinite(level)])
    dark = np.abs(level - sky) < MAX_STARLIGHT * abs(sky)
    first = np.flatnonzero(dark[:-1] & dark[1:])
    if first.size * len(electrons) < MIN_PAIRS:
        return 0.0
    n_pairs, variance, covariance = _covariance(electrons, first, COVARIANCE_CLIP_SIGMA, _FAR_E)
    if n_pairs < MIN_PAIRS:
        return 0.0
    covariance += variance / electrons.shape[1]  # the mean of the row is in both
    if covariance < MIN_SIGNIFICANCE * variance / np.sqrt(n_pairs):
        return 0.0
    if covariance >= neighbour_covariance(sky, effect.scaled(MAX_STRENGTH)):
        return 0.0
    return float(brentq(lambda s: neighbour_covariance(sky, effect.scaled(s)) - covariance, 0.0, MAX_STRENGTH))


def neighbour_covariance(sky_e: float, effect: SerialTrap) -> float:
    """Covariance of two neighbouring sky pixels read through the serial trap (electrons²).

    Notes
    -----
    One electron more than the sky makes a pixel read ``h_0`` higher and the next ones ``h_1``, ``h_2``, …
    Poisson noise of variance ``sky_e`` therefore has a covariance of ``sky_e Σ h_k h_{k+1}``.
    """
    (response,) = serial_trap_response(np.array([sky_e]), effect)
    return float(sky_e * np.sum(response[:-1] * response[1:]))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _column_means(electrons):  # pragma: no cover - compiled
    """Mean of each column of (t, x), NaN left out."""
    n_columns = electrons.shape[1]
    total, count = np.zeros(n_columns), np.zeros(n_columns)
    for row in range(len(electrons)):
        values = electrons[row]
        for column in range(n_columns):
            known = values[column] == values[column]
            total[column] += values[column] if known else np.float32(0)
            count[column] += 1.0 if known else 0.0
    return total / count


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _covariance(electrons, first, clip, far):  # pragma: no cover - compiled
    """Variance and covariance of row-to-row changes in pairs of neighbouring columns, and the number of pairs used.

    Parameters are electrons (t, x), the first column of each pair, and the limits in sigma and electrons beyond which a
    change is not used (cosmic rays reach over several columns). Stars move very little from row to row. The clipped
    mean change of each row is subtracted.
    """
    n_columns = electrons.shape[1]
    half = np.float32(np.sqrt(0.5))
    count, total, squares = 0, 0.0, 0.0
    for row in range(len(electrons) - 1):
        for column in first:
            change = (electrons[row + 1, column] - electrons[row, column]) * half
            if abs(change) < far:
                count += 1
                total += change
                squares += change * change
    limit = np.float32(clip * np.sqrt(squares / count - (total / count) ** 2))
    n_pairs, variance, covariance = 0, 0.0, 0.0
    changes = np.empty(n_columns, dtype=np.float32)
    for row in range(len(electrons) - 1):
        known, shared = 0, 0.0
        for column in range(n_columns):
            change = (electrons[row + 1, column] - electrons[row, column]) * half
            changes[column] = change
            if change == change:
                known += 1
                shared += min(max(change, -limit), limit)
        shared /= max(known, 1)
        for column in first:
            left, right = changes[column] - shared, changes[column + 1] - shared
            if abs(left) < limit and abs(right) < limit:
                n_pairs += 1
                variance += left * left
                covariance += left * right
    return n_pairs, variance / max(n_pairs, 1), covariance / max(n_pairs, 1)
