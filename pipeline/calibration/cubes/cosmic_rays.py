"""Mask cosmic rays in images: light in a single row that is sharper than the point-spread function."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd

from shutterless.pipeline.psf import pixel_profile

MIN_SIGMA = 5.0  # of the brightest pixel
NEIGHBOUR_SIGMA = 4.0  # of the pixels around it that are masked, too
# masks 92 % of one-pixel rays of 8 sigma and all of 14 sigma. Of sources of 8 to 100 sigma in one row it masks 0.3 % at
# a width of 0.54 px (at 0.8 px 4 % of those of 8 sigma, 1 % of 14 sigma). The margin is for the point-spread function
# of Kepler, whose flares are sharper than a Gaussian by 0.03 at most
SPIKE_SHARPNESS_NOISE, SPIKE_NOISE = 0.05, 0.8
# second singular value over the first: 0.05 for a flare of 350 sigma in K2; for noise it is 1.9 ± 0.5 σ
MAX_SECOND, MIN_SECOND_SIGMA = 0.1, 4.5
MAX_LASTING = 0.3  # light in the rows before and after over that in the row; more is a flare of several rows
COLUMNS = ("row", "y", "x", "snr", "n_pixels", "charge_e")
_PLACES_PX = np.arange(-0.5, 0.51, 0.125)
_TRACKS = tuple(
    np.array([(max(-dy, 0) + dy * k, dx * k + max(-dx, 0)) for k in range(n)])
    for n, dy, dx in ((1, 0, 0), (2, 0, 1), (2, 1, 0), (2, 1, 1), (2, 1, -1))
)


def mask_cosmic_rays(residual: np.ndarray, noise_e: np.ndarray, sigma_px: float) -> pd.DataFrame:
    """Mask the pixels that cosmic rays hit, in place.

    Parameters
    ----------
    residual : ndarray of float, shape (y, x, t)
        In units of σ; NaN where masked.
    noise_e : ndarray of float, shape (y, x)
        σ of each pixel (electrons).
    sigma_px : float
        Width of the point-spread function (pixels).

    Returns
    -------
    DataFrame
        `COLUMNS`, one row for each ray: place and S/N of its brightest pixel, number of masked pixels and their light
        (in the unit of ``noise_e``).

    Notes
    -----
    A particle leaves its charge in one or a few pixels of one row. The optics spread light from the sky, however short
    it is. At every bright local maximum the best track of one or two pixels is therefore compared with the best source
    at any place within the pixel. It is a cosmic ray if the track has clearly more S/N than a source would give it, and
    the rows before and after are dark. Longer, bent tracks are found by their rank: a point-spread function is close to
    the product of its two marginals, so that a source is a matrix of rank one at any place, without a second singular
    value. Light beyond the border of the image is unknown, so that a ray which looks like a cut source stays.
    """
    padded = np.pad(residual, ((1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    places = _bright_maxima(padded)
    if not len(places):
        return pd.DataFrame(columns=list(COLUMNS)).astype({"snr": "float64", "charge_e": "float64"})
    y, x, t = places.T
    reach = np.arange(-1, 2)
    stamps = padded[y[:, None, None] + reach[:, None], x[:, None, None] + reach, t[:, None, None]]  # (n, 3, 3)
    peak = stamps[:, 1, 1]
    scale = np.pad(noise_e, 1)[y[:, None, None] + reach[:, None], x[:, None, None] + reach]
    hit = _is_sharp(stamps, scale, sigma_px) | _is_crooked(stamps, scale)
    hit &= _lasting(padded, y, x, t) < MAX_LASTING * peak
    n_masked, charge_e = np.zeros(len(places), dtype=np.int64), np.zeros(len(places))
    for i in np.flatnonzero(hit):
        window = padded[y[i] - 1 : y[i] + 2, x[i] - 1 : x[i] + 2, t[i]]
        bright = window > NEIGHBOUR_SIGMA
        bright[1, 1] = True
        n_masked[i], charge_e[i] = bright.sum(), np.sum((window * scale[i])[bright])
        window[bright] = np.nan
    residual[:] = padded[1:-1, 1:-1]
    found = {"row": t[hit], "y": y[hit] - 1, "x": x[hit] - 1, "snr": peak[hit].astype(float), "n_pixels": n_masked[hit]}
    found["charge_e"] = charge_e[hit]
    return pd.DataFrame(found).sort_values(["row", "y", "x"], ignore_index=True)


def _bright_maxima(padded: np.ndarray) -> np.ndarray:
    """Pixels (y, x, t) that are above `MIN_SIGMA` and brighter than their neighbours."""
    bright = np.argwhere(padded > MIN_SIGMA)
    keep = []
    for y, x, t in bright:
        window = padded[y - 1 : y + 2, x - 1 : x + 2, t]
        keep.append(padded[y, x, t] >= np.nanmax(window))
    return bright[np.array(keep, dtype=bool)]


def _lasting(padded: np.ndarray, y: np.ndarray, x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The brighter one of the same pixel in the rows before and after; 0 where both are masked or absent."""
    beside = [np.where((t + k >= 0) & (t + k < padded.shape[2]), _row(padded, y, x, t + k), np.nan) for k in (-1, 1)]
    return np.nanmax(np.nan_to_num(np.stack(beside), nan=0.0), axis=0)


def _row(padded: np.ndarray, y: np.ndarray, x: np.ndarray, t: np.ndarray) -> np.ndarray:
    return padded[y, x, np.clip(t, 0, padded.shape[2] - 1)]


def _is_sharp(stamps: np.ndarray, noise_e: np.ndarray, sigma_px: float) -> np.ndarray:
    """Whether a track explains stamps (n, 3, 3) better than it would if a source were in the middle pixel."""
    light, every = _sources(sigma_px), np.arange(len(stamps))
    live = np.isfinite(stamps)
    values = np.where(live, stamps, 0.0)
    weight = (noise_e[:, 1:2, 1:2] / np.where(noise_e > 0, noise_e, noise_e[:, 1:2, 1:2])).reshape(len(stamps), -1)
    live_weight = weight * live.reshape(weight.shape)
    snr = (
        (values.reshape(weight.shape) * live_weight)
        @ light.T
        / np.sqrt(np.maximum(live_weight**2 @ (light**2).T, 1e-12))
    )
    best = snr.argmax(axis=1)  # of the places
    highest = snr[every, best]
    # a neighbour that is noisier makes a source sharper in units of noise; `SPIKE_SHARPNESS_NOISE` was set without
    own = np.maximum(*(_own_track(light[best] * part) for part in (weight, np.ones_like(weight))))
    limit = own + SPIKE_SHARPNESS_NOISE + SPIKE_NOISE / np.maximum(highest, 1e-6)
    return _best_track(values) > limit * highest


def _own_track(light: np.ndarray) -> np.ndarray:
    """S/N of the best track in the light of a source (n, 9) over the S/N of all its light."""
    return _best_track((light / np.linalg.norm(light, axis=1, keepdims=True)).reshape(-1, 3, 3))


def _is_crooked(stamps: np.ndarray, noise_e: np.ndarray) -> np.ndarray:
    """Whether the light of stamps (n, 3, 3) is not a product of a function of y and one of x."""
    inside = noise_e > 0
    whole = np.all(np.isfinite(stamps) | ~inside, axis=(1, 2))
    middle = noise_e[:, 1:2, 1:2]
    values = np.linalg.svd(np.nan_to_num(stamps) * noise_e / middle, compute_uv=False)
    return whole & (values[:, 1] > MAX_SECOND * values[:, 0]) & (values[:, 1] > MIN_SECOND_SIGMA)


@lru_cache(maxsize=8)
def _sources(sigma_px: float) -> np.ndarray:
    """Light of sources at places within a pixel on the pixels around it, (places, 9)."""
    along = [pixel_profile(np.arange(-1, 2) - place, sigma_px) for place in _PLACES_PX]
    return np.array([np.outer(a, b).ravel() for a in along for b in along])


def _best_track(stamps: np.ndarray) -> np.ndarray:
    """S/N of the best track of one or two pixels, through the middle pixel or not, in stamps (n, 3, 3)."""
    best = np.full(len(stamps), -np.inf)
    for steps in _TRACKS:
        room = 3 - steps.max(axis=0)
        pixels = [stamps[:, dy : dy + room[0], dx : dx + room[1]] for dy, dx in steps]
        total = np.sum(pixels, axis=0).reshape(len(stamps), -1)
        best = np.maximum(best, total.max(axis=1) / np.sqrt(len(steps)))
    return best
