"""Interpolate values that are stored for blocks of rows."""

from __future__ import annotations

import numba
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
    values = np.empty((stop - start, level.shape[1]), dtype=np.float32)
    _blend(np.asarray(level, dtype=np.float32), lower, upper, (position - lower).astype(np.float32), values)
    return values


@numba.njit(cache=True, nogil=True)
def _blend(level, lower, upper, weight, values):  # pragma: no cover - compiled
    """Write ``level[lower] (1 - weight) + level[upper] weight`` of every row to ``values`` (t, x)."""
    for row in range(len(values)):
        before, after, out = level[lower[row]], level[upper[row]], values[row]
        share = weight[row]
        rest = np.float32(1) - share
        for x in range(len(out)):
            out[x] = before[x] * rest + after[x] * share
