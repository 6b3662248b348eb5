"""Cut the strip around a trigger out of a calibrated amplifier and turn it into what a model is given."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.pipeline.store import BLOCK_ROWS, Amplifier
from shutterless.pipeline.tokens import STAGE1_FEATURES, StripBatch, TokenGrid, patchify

ROWS_PER_WIDTH = 4  # a strip is at least four times as long as the trigger it is cut for


def choose_bins(width_rows: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """Smallest binning factor of the grid at which a strip holds `ROWS_PER_WIDTH` trigger widths.

    Parameters
    ----------
    width_rows : ndarray, shape (b,)

    Returns
    -------
    ndarray of int64, shape (b,)
    """
    bins = np.sort(np.asarray(grid.bins, dtype=np.int64))
    wanted = ROWS_PER_WIDTH * np.asarray(width_rows, dtype=np.float64) / grid.n_rows
    return bins[np.minimum(np.searchsorted(bins, wanted), bins.size - 1)]


def strip_first_rows(triggers: pd.DataFrame, bins: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """First row of each strip, which is centred on its trigger; may be negative near the start of a file."""
    middle = (triggers["row_start"].to_numpy() + triggers["row_stop"].to_numpy() + 1) // 2
    return middle - bins * grid.n_rows // 2


def cut_strips(amplifier: Amplifier, triggers: pd.DataFrame, grid: TokenGrid) -> StripBatch:
    """Cut one strip per trigger.

    Parameters
    ----------
    amplifier : Amplifier
    triggers : DataFrame
        From `shutterless.pipeline.triggers.find_triggers`.
    grid : TokenGrid
        Its ``n_y`` must be the amplifier's.

    Returns
    -------
    StripBatch
        In the order of the triggers. Pixels that are masked or beyond the amplifier's borders are 0; binned rows are
        sums over √(live rows), so that they stay in units of σ.
    """
    bins = choose_bins(triggers["width_rows"].to_numpy(), grid)
    first_rows = strip_first_rows(triggers, bins, grid)
    first_columns = np.round(triggers["x"].to_numpy()).astype(np.int64) - grid.n_columns // 2
    n = len(triggers)
    strips = np.zeros((n, grid.n_y, grid.n_columns, grid.n_rows), dtype=np.float32)
    live = np.zeros((n, grid.n_rows), dtype=bool)
    context = np.zeros((n, grid.n_rows), dtype=np.float32)
    profile = np.zeros((n, grid.profile_size), dtype=np.float32)
    for i in range(n):
        rows = (int(first_rows[i]), int(bins[i]), grid.n_rows)
        strips[i], live[i] = _cut_residual(amplifier, int(first_columns[i]), grid.n_columns, *rows)
        context[i] = _cut_rows(amplifier.row_residual, *rows)
        level = _cut_baseline(amplifier, int(first_columns[i]), grid.n_columns, rows[0] + rows[1] * rows[2] // 2)
        profile[i] = ((level - amplifier.sky_e) / amplifier.sky_sigma_e).ravel()
    return StripBatch(
        patches=patchify(strips, grid),
        context=context.reshape(n, grid.n_tokens, grid.patch_rows),
        profile=profile,
        features=stage1_features(triggers, bins),
        mask=np.any(live.reshape(n, grid.n_tokens, grid.patch_rows), axis=2),
    )


def stage1_features(triggers: pd.DataFrame, bins: np.ndarray) -> np.ndarray:
    """Numbers of `STAGE1_FEATURES` for each trigger, shape (b, f), float32."""
    snr = triggers["snr"].to_numpy(dtype=np.float64)
    columns = {
        "snr": np.abs(snr),
        "sign": np.sign(snr),
        "log2_width": np.log2(triggers["width_rows"].to_numpy(dtype=np.float64)),
        "log2_bin": np.log2(bins),
        **{name: triggers[name].to_numpy(dtype=np.float64) for name in STAGE1_FEATURES[4:]},
    }
    return np.stack([columns[name] for name in STAGE1_FEATURES], axis=1).astype(np.float32)


def _cut_residual(
    amplifier: Amplifier, first_column: int, n_columns: int, first_row: int, factor: int, n_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Binned residual (y, x, t) and which binned rows hold a live pixel (t,)."""
    whole = np.full((amplifier.residual.shape[0], n_columns, n_rows * factor), np.nan, dtype=np.float32)
    c0, c1 = max(first_column, 0), min(first_column + n_columns, amplifier.n_columns)
    r0, r1 = max(first_row, 0), min(first_row + n_rows * factor, amplifier.n_rows)
    if c0 < c1 and r0 < r1:
        whole[:, c0 - first_column : c1 - first_column, r0 - first_row : r1 - first_row] = amplifier.residual[
            :, c0:c1, r0:r1
        ]
    valid = np.isfinite(whole).reshape(*whole.shape[:2], n_rows, factor)
    count = valid.sum(axis=3, dtype=np.float32)
    total = np.where(valid, whole.reshape(valid.shape), 0).sum(axis=3)
    return total / np.sqrt(np.maximum(count, 1)), np.any(valid, axis=(0, 1, 3))


def _cut_rows(series: np.ndarray, first_row: int, factor: int, n_rows: int) -> np.ndarray:
    """Binned piece of a series per row, 0 beyond its ends, scaled as `_cut_residual`."""
    piece = np.zeros(n_rows * factor, dtype=np.float32)
    r0, r1 = max(first_row, 0), min(first_row + piece.size, len(series))
    if r0 < r1:
        piece[r0 - first_row : r1 - first_row] = series[r0:r1]
    return piece.reshape(n_rows, factor).sum(axis=1) / np.sqrt(np.float32(factor))


def _cut_baseline(amplifier: Amplifier, first_column: int, n_columns: int, row: int) -> np.ndarray:
    """Baseline (y, x) of a strip's columns at its middle row; columns beyond the border repeat the last."""
    columns = np.clip(np.arange(first_column, first_column + n_columns), 0, amplifier.n_columns - 1)
    block = int(np.clip(row // BLOCK_ROWS, 0, amplifier.baseline_e.shape[2] - 1))
    return amplifier.baseline_e[:, columns, block]
