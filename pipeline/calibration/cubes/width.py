"""Measure how wide stars are from the pixels, where the header does not say or cannot be believed."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter

from shutterless.pipeline.psf import pixel_profile

DEFAULT_SIGMA_PX = 0.85
MIN_LIGHT_SNR = 30.0  # of a brightest pixel whose shape tells a width
BELIEVED = (0.6, 1.7)  # measured width over that of the header within which the fit of stars starts from the header
MAX_SIGMA_PX = 8.0
_HALF, _N_SOURCES = 4, 3
_SIGMAS = np.geomspace(0.35, 4.0, 30)
_OFFSETS = np.linspace(-0.5, 0.5, 5)
_MIN_EXPLAINED = 0.8  # share of the variance in the window; less is no single source


def choose_width(
    by_row: np.ndarray, image: np.ndarray, row_error: np.ndarray, n_live: int, stated_px: float, *, is_stated: bool
) -> tuple[float, list[str]]:
    """Width from which the fit of stars starts.

    Parameters
    ----------
    by_row : ndarray of float64, shape (t, y, x)
        NaN where masked.
    image, row_error : ndarray, shape (y, x)
        Median image, and the noise of one row.
    n_live : int
        Live rows.
    stated_px : float
        Sigma by the header, or by the profile's default.
    is_stated : bool
        Whether the header gives it.

    Returns
    -------
    sigma_px : float
    notes : list of str
        What was taken instead of the header, in words.
    """
    size = max(image.shape)
    is_possible = 0 < stated_px <= min(MAX_SIGMA_PX, size)
    measured = measure_width(image, row_error / np.sqrt(max(n_live, 1)))
    what = "the stars"
    if measured is None and not (is_stated and is_possible):
        peak = _brightest_change(by_row, image, row_error)
        measured = None if peak is None else measure_width(peak, row_error)
        what = "the brightest event, for there is no star"
    origin = "SEEING and PIXSCALE say" if is_stated else "no SEEING is given; the default is"
    if measured is not None and not (is_possible and BELIEVED[0] <= measured / stated_px <= BELIEVED[1]):
        taken = f"the {measured:.2g} px of {what} are taken"
        return measured, [f"{origin} stars of {stated_px:.2g} px (sigma): {taken}"]
    if is_possible:
        return stated_px, []
    taken = f"no star is bright enough to measure it, {DEFAULT_SIGMA_PX} px are taken"
    return DEFAULT_SIGMA_PX, [f"{origin} stars of {stated_px:.2g} px (sigma), which no image of {size} px has: {taken}"]


def measure_width(image: np.ndarray, error: np.ndarray) -> float | None:
    """Median width (sigma, pixels) of the brightest sources of an image; None if none is bright and round.

    Parameters
    ----------
    image, error : ndarray, shape (y, x)
        NaN where a pixel is dead.
    """
    if min(image.shape) < 2 * 2 + 1:
        return None
    plain = np.where(np.isfinite(image), image, np.nanmedian(image))
    height = (plain - np.median(plain)) / error
    peaks = np.argwhere((height == maximum_filter(height, size=5)) & (height > MIN_LIGHT_SNR))
    peaks = peaks[np.argsort(-height[tuple(peaks.T)], kind="stable")][:_N_SOURCES]
    widths = [width for y, x in peaks if (width := _fit_width(plain, int(y), int(x))) is not None]
    return float(np.median(widths)) if widths else None


def _fit_width(image: np.ndarray, y: int, x: int) -> float | None:
    """Width of the Gaussian on a flat background that fits best around a pixel."""
    rows = np.arange(max(y - _HALF, 0), min(y + _HALF + 1, image.shape[0]))
    columns = np.arange(max(x - _HALF, 0), min(x + _HALF + 1, image.shape[1]))
    window = image[np.ix_(rows, columns)].ravel()
    centred = window - window.mean()
    along_y = pixel_profile(rows - y - _OFFSETS[:, None, None], _SIGMAS[None, :, None])  # (offset, sigma, y)
    along_x = pixel_profile(columns - x - _OFFSETS[:, None, None], _SIGMAS[None, :, None])
    light = np.einsum("asy,bsx->absyx", along_y, along_x).reshape(_OFFSETS.size**2, _SIGMAS.size, -1)
    light = light - light.mean(axis=2, keepdims=True)
    power = np.einsum("osp,osp->os", light, light)
    flux = np.maximum(light @ centred, 0.0)
    explained = flux**2 / np.maximum(power, 1e-30) / max(float(centred @ centred), 1e-30)
    best = np.unravel_index(np.argmax(explained), explained.shape)
    return float(_SIGMAS[best[1]]) if explained[best] > _MIN_EXPLAINED else None


def _brightest_change(by_row: np.ndarray, image: np.ndarray, row_error: np.ndarray) -> np.ndarray | None:
    """Image of the row with the pixel that is brightest against the median, less the median."""
    height = np.nan_to_num((by_row - image) / row_error)
    row = int(np.argmax(height.max(axis=(1, 2))))
    return np.nan_to_num(by_row[row] - image) if height[row].max() > MIN_LIGHT_SNR else None
