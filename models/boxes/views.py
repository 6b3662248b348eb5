"""An image at several binnings, as the network sees it: binned once as a whole, scaled in each tile by its scatter."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch.nn import functional

from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA

BIN_PX = 4  # pixels of a place of the views, along each axis
N_BINNED, N_VIEWS = 8, 9


def bin_pixels(pixels: np.ndarray) -> np.ndarray:
    """Means of an image in bins of 2 and 4 pixels, and the extremes of the finer ones in the coarser.

    Parameters
    ----------
    pixels : ndarray of float32, shape (y, x)
        In any unit; what is not finite counts as 0. Both sides are multiples of `BIN_PX`.

    Returns
    -------
    ndarray of float32, shape (8, y/4, x/4)
        The four means of 2 × 2 pixels, that of 4 × 4, the largest and the smallest of the four, and the share of
        finite pixels.
    """
    return _bin_pixels(np.ascontiguousarray(pixels, dtype=np.float32))  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _bin_pixels(pixels):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    n_rows, n_columns = pixels.shape[0] // 4, pixels.shape[1] // 4
    binned = np.empty((8, n_rows, n_columns), dtype=np.float32)
    quarter = np.float32(0.25)
    for row in range(n_rows):
        for column in range(n_columns):
            total, high, low, good = np.float32(0), np.float32(-np.inf), np.float32(np.inf), 0
            for part in range(4):
                y, x = 4 * row + 2 * (part // 2), 4 * column + 2 * (part % 2)
                mean = np.float32(0)
                for dy in range(2):
                    for dx in range(2):
                        value = pixels[y + dy, x + dx]
                        if abs(value) < np.inf:
                            mean += value
                            good += 1
                mean *= quarter
                binned[part, row, column] = mean
                total += mean
                high, low = max(high, mean), min(low, mean)
            binned[4, row, column] = total * quarter
            binned[5, row, column] = high
            binned[6, row, column] = low
            binned[7, row, column] = good / np.float32(16)
    return binned


def scale_views(binned: torch.Tensor) -> torch.Tensor:
    """Views of tiles in units of the scatter of each tile, compressed so that a bright star hides nothing beside it.

    Parameters
    ----------
    binned : tensor, shape (b, 8, y/4, x/4)
        Tiles of `bin_pixels`; both sides are multiples of 4.

    Returns
    -------
    tensor, shape (b, 9, y/4, x/4)
        As `bin_pixels`, with the mean of 16 × 16 pixels before the share.
    """
    unit, coarse = _scatter(binned[:, 0]), _scatter(binned[:, 4, ::2, ::2])
    wide = functional.interpolate(functional.avg_pool2d(binned[:, 4:5], 4), scale_factor=4.0)
    values = torch.cat([binned[:, :4] / unit, binned[:, 4:5] / coarse, binned[:, 5:7] / unit, 2 * wide / coarse], 1)
    return torch.cat([values * (1 + values.abs()).rsqrt(), binned[:, 7:]], 1)


def _scatter(maps: torch.Tensor) -> torch.Tensor:
    """Robust standard deviation of each tile, shape (b, 1, 1, 1); never 0."""
    median = maps.flatten(1).abs().median(1).values
    return (MAD_TO_SIGMA * median).clamp(min=1e-6)[:, None, None, None]
