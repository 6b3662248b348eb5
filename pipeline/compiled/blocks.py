"""Interpolate values that are stored for blocks of rows."""

from __future__ import annotations

import numpy as np

BLOCK_ROWS = 64  # that share one stored value of the baseline, at any row rate: samples of a clipped mean


def interpolate_blocks(level: np.ndarray, start: int, stop: int, block_rows: int = BLOCK_ROWS) -> np.ndarray:
    """Values of rows ``start..stop`` from values at block centres, linear in between and constant outside.

    Parameters
    ----------
    level : ndarray, shape (b, x)
        Block ``i`` is centred on row ``(i + 1/2) block_rows``.

    Returns
    -------
    ndarray of float32, shape (stop - start, x)
    """
    position = np.clip((np.arange(start, stop) + 0.5) / block_rows - 0.5, 0, len(level) - 1)
    lower = np.minimum(position.astype(np.int64), max(len(level) - 2, 0))
    upper = np.minimum(lower + 1, len(level) - 1)
    weight = (position - lower).astype(np.float32)[:, None]
    return level[lower] * (1 - weight) + level[upper] * weight
