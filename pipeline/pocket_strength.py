"""How strong the pocket effect is in an amplifier, from the noise that neighbouring sky columns share."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from shutterless.pipeline.background import sky_level
from shutterless.pipeline.pocket import PocketEffect, pocket_response

MAX_STRENGTH = 2.0  # times the profile's capacity; more is another effect
MIN_SIGNIFICANCE = 5.0  # of the covariance; less is no reason to change every pixel
MAX_STARLIGHT = 0.1  # of the sky in a column that is taken for sky
MIN_PAIRS = 100_000  # of neighbouring sky pixels, which tell a strength of 1 to 8 %
CLIP_SIGMA = 5.0
_FAR_E = 500.0  # beyond, no noise of a sky pixel


def measure_strength(electrons: np.ndarray, effect: PocketEffect) -> float:
    """Measure the strength of the pocket effect.

    Parameters
    ----------
    electrons : ndarray of float32, shape (t, x)
        Bias-subtracted rows of the steady state as they were read, in electrons; NaN where saturated.
    effect : PocketEffect
        Of unit strength.

    Returns
    -------
    float
        Capacity over that of ``effect``; 0 where neighbouring sky pixels do not vary together by `MIN_SIGNIFICANCE`
        errors, or where there are too few without a star to tell.

    Notes
    -----
    Photons fall on each pixel by themselves, so their noise is uncorrelated until the register passes some of it on.
    Streaks lean, too, but so they do by image motion and unseen companions; tried on simulated frames, they told the
    strength four times worse than its error.
    """
    electrons = electrons[np.isfinite(electrons).any(axis=1)]
    if len(electrons) < 3:
        return 0.0
    level = np.nanmean(electrons, axis=0)
    sky = sky_level(level[np.isfinite(level)])
    dark = np.abs(level - sky) < MAX_STARLIGHT * abs(sky)
    first = np.flatnonzero(dark[:-1] & dark[1:])
    if first.size * len(electrons) < MIN_PAIRS:
        return 0.0
    change = np.diff(electrons, axis=0) / np.float32(np.sqrt(2))  # stars move from row to row by next to nothing
    limit = CLIP_SIGMA * float(np.nanstd(change[:, first][np.abs(change[:, first]) < _FAR_E]))
    shared = np.nanmean(np.clip(change, -limit, limit), axis=1, keepdims=True)
    left, right = (change[:, columns] - shared for columns in (first, first + 1))
    good = (np.abs(left) < limit) & (np.abs(right) < limit)  # cosmic rays, which reach over several columns
    if good.sum() < MIN_PAIRS:
        return 0.0
    left, right = left[good].astype(np.float64), right[good].astype(np.float64)
    variance = float(np.mean(left**2))
    covariance = float(np.mean(left * right)) + variance / electrons.shape[1]  # the mean of the row is in both
    if covariance < MIN_SIGNIFICANCE * variance / np.sqrt(left.size):
        return 0.0
    if covariance >= neighbour_covariance(sky, effect.scaled(MAX_STRENGTH)):
        return 0.0
    return float(brentq(lambda s: neighbour_covariance(sky, effect.scaled(s)) - covariance, 0.0, MAX_STRENGTH))


def neighbour_covariance(sky_e: float, effect: PocketEffect) -> float:
    """Covariance of two neighbouring sky pixels read through the pocket (electrons²).

    Notes
    -----
    A pixel with one electron more than the sky is read ``h_0`` higher, the next ones ``h_1``, ``h_2``, …
    so Poisson noise of variance ``sky_e`` becomes a covariance of ``sky_e Σ h_k h_{k+1}``.
    """
    response = pocket_response(sky_e, effect)
    return float(sky_e * np.sum(response[:-1] * response[1:]))
