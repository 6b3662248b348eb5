"""Compute the point-spread function of a streak: its marginals along columns and rows, integrated over pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtr


def pixel_profile(offsets_px: Any, sigma_px: Any) -> np.ndarray:
    """Fraction of a source's light on pixels at given distances from it along one axis.

    Parameters
    ----------
    offsets_px : array_like
        Pixel centre minus source position (pixels).
    sigma_px : float or array_like
        Width of the Gaussian point-spread function (pixels), broadcast with the offsets.

    Returns
    -------
    ndarray of float64
        The marginal of a two-dimensional Gaussian integrated over each pixel; sums to 1 over all pixels.
    """
    offsets = np.asarray(offsets_px, dtype=np.float64)
    return ndtr((offsets + 0.5) / sigma_px) - ndtr((offsets - 0.5) / sigma_px)


def stack_profile(y_offsets_px: Any, x_offsets_px: Any, sigma_px: float, n_y: int) -> np.ndarray:
    """Fraction of a source's light that falls on the pixels of a stack, shape (..., y, x).

    Parameters
    ----------
    y_offsets_px, x_offsets_px : array_like, shape (..., y) and (..., x)
        Pixel centres minus source position.
    sigma_px : float
    n_y : int
        Height of the stack. At a height of 1 the row holds all light along y, since in continuous readout every row was
        clocked past the whole source.
    """
    along_y = pixel_profile(y_offsets_px, sigma_px) if n_y > 1 else np.ones(np.shape(y_offsets_px))
    return along_y[..., :, None] * pixel_profile(x_offsets_px, sigma_px)[..., None, :]


def psf_half_width(sigma_px: float) -> int:
    """Pixels to either side of a source that hold all but 0.1 % of its light along one axis."""
    return max(int(np.ceil(3.5 * sigma_px)), 1)


def noise_equivalent_columns(sigma_px: float) -> float:
    """Columns whose background an optimally weighted row collects, 1/ΣP² ≈ 2√π σ (King 1983, PASP 95, 163)."""
    return float(2 * np.sqrt(np.pi) * sigma_px)
