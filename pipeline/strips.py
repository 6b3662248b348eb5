"""Cut the strip around a trigger out of a calibrated amplifier and turn it into what a model is given."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.pipeline.store import Amplifier
from shutterless.pipeline.tokens import STAGE1_FEATURES, GridError, StripBatch, TokenGrid, patchify

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


def suitable_grid(amplifier: Amplifier) -> TokenGrid:
    """Token grid for an amplifier's kind of data where nobody asks for another."""
    return TokenGrid.from_dict(amplifier.token_grid)


def suits_stack(grid: TokenGrid, amplifier: Amplifier) -> bool:
    """Whether a grid is for stacks of this kind, one row high or higher."""
    return (grid.n_y > 1) == (amplifier.n_y > 1)


def check_grid(amplifier: Amplifier, grid: TokenGrid) -> None:
    """Refuse to cut what is one row high for a grid of several, or the other way round, showing both grids.

    Raises
    ------
    GridError
        In a stack one row high a pixel holds all light along y, in a higher one a part of it: a model of one kind knows
        nothing of the other.
    """
    if not suits_stack(grid, amplifier):
        raise GridError(
            f"{amplifier.entry} is a stack of {amplifier.n_y} × {amplifier.n_columns} pixels (y, x), for which a grid "
            f"is like {suitable_grid(amplifier)}, but the model expects {grid}; train one on such a store, or search "
            "with --model template-bank"
        )


def cut_strips(amplifier: Amplifier, triggers: pd.DataFrame, grid: TokenGrid) -> StripBatch:
    """Cut one strip per trigger.

    Parameters
    ----------
    amplifier : Amplifier
    triggers : DataFrame
        From `shutterless.pipeline.triggers.find_triggers`.
    grid : TokenGrid

    Returns
    -------
    StripBatch
        In the order of the triggers. Pixels that are masked or beyond the amplifier's borders are 0; binned rows are
        sums over √(live rows), so that they stay in units of σ.

    Raises
    ------
    GridError
        As `check_grid`.
    """
    check_grid(amplifier, grid)
    bins = choose_bins(triggers["width_rows"].to_numpy(), grid)
    first_rows = strip_first_rows(triggers, bins, grid)
    size = np.array([grid.n_y, grid.n_columns])
    corners = np.round(triggers[["y", "x"]].to_numpy(dtype=np.float64)).astype(np.int64) - size // 2
    n = len(triggers)
    strips = np.zeros((n, grid.n_y, grid.n_columns, grid.n_rows), dtype=np.float32)
    live = np.zeros((n, grid.n_rows), dtype=bool)
    context = np.zeros((n, grid.n_rows), dtype=np.float32)
    profile = np.zeros((n, grid.profile_size), dtype=np.float32)
    for i in range(n):
        rows = (int(first_rows[i]), int(bins[i]), grid.n_rows)
        strips[i], live[i] = _cut_residual(amplifier, corners[i], size, *rows)
        context[i] = _cut_rows(amplifier.row_residual, *rows)
        level = _cut_baseline(amplifier, corners[i], size, rows[0] + rows[1] * rows[2] // 2)
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
    amplifier: Amplifier, corner: np.ndarray, size: np.ndarray, first_row: int, factor: int, n_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Binned residual (y, x, t) from a corner (y, x) on, and which binned rows hold a live pixel (t,)."""
    whole = np.full((*size, n_rows * factor), np.nan, dtype=np.float32)
    first = np.array([*corner, first_row])
    start = np.maximum(first, 0)
    stop = np.minimum(first + whole.shape, amplifier.residual.shape)
    if np.all(start < stop):
        inside = tuple(slice(a, b) for a, b in zip(start - first, stop - first, strict=True))
        whole[inside] = amplifier.residual[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
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


def _cut_baseline(amplifier: Amplifier, corner: np.ndarray, size: np.ndarray, row: int) -> np.ndarray:
    """Baseline (y, x) of a strip at its middle row; pixels beyond the border repeat the last."""
    y, x = (
        np.clip(np.arange(first, first + n), 0, limit - 1)
        for first, n, limit in zip(corner, size, amplifier.residual.shape, strict=False)
    )
    return amplifier.baseline_e[y[:, None], x, amplifier.block_of(row)]
