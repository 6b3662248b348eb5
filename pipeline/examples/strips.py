"""Cut strips around triggers out of a calibrated amplifier and compute a model's input from them."""

from __future__ import annotations

import numba
import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.compiled.residual_lines import compiled_lines, mark_live, sum_bins, unpack_line
from shutterless.pipeline.tokens import STAGE1_FEATURES, GridError, StripBatch, TokenGrid, patchify

ROWS_PER_WIDTH = 4  # a strip is at least four times as long as its trigger


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
    """First row of each strip, which is centred on its trigger. It may be negative near the start of a file."""
    middle = (triggers["row_start"].to_numpy() + triggers["row_stop"].to_numpy() + 1) // 2
    return middle - bins * grid.n_rows // 2


def suitable_grid(amplifier: Amplifier) -> TokenGrid:
    """Default token grid for an amplifier's kind of data."""
    return TokenGrid(**amplifier.token_grid)


def suits_stack(grid: TokenGrid, amplifier: Amplifier) -> bool:
    """Whether a grid and a stack are both one row high, or both higher."""
    return (grid.n_y > 1) == (amplifier.n_y > 1)


def check_grid(amplifier: Amplifier, grid: TokenGrid) -> None:
    """Check that a grid suits an amplifier's kind of data.

    Raises
    ------
    GridError
        If one of them is one row high and the other is higher. In a stack one row high a pixel holds all light along y,
        in a higher one only part of it, so a model of one kind cannot be applied to the other.
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
        From `shutterless.pipeline.detection.triggers.find_triggers`.
    grid : TokenGrid

    Returns
    -------
    StripBatch
        In the order of the triggers. Pixels that are masked or beyond the amplifier's borders are 0. Binned rows are
        sums over √(live rows), so their unit is σ.

    Raises
    ------
    GridError
        As `check_grid`.
    """
    check_grid(amplifier, grid)
    bins = choose_bins(triggers["width_rows"].to_numpy(), grid)
    first_rows = strip_first_rows(triggers, bins, grid).astype(np.int64)
    size = np.array([grid.n_y, grid.n_columns])
    corners = np.round(triggers[["y", "x"]].to_numpy(dtype=np.float64)).astype(np.int64) - size // 2
    n = len(triggers)
    strips = np.zeros((n, grid.n_y, grid.n_columns, grid.n_rows), dtype=np.float32)
    live = np.zeros((n, grid.n_rows), dtype=bool)
    _cut_residuals(
        compiled_lines(amplifier.residual), amplifier.residual.shape[:2], corners, first_rows, bins, strips, live
    )
    level = _cut_baselines(amplifier, corners, grid, first_rows + bins * grid.n_rows // 2)
    return StripBatch(
        patches=patchify(strips, grid),
        context=_cut_rows(amplifier.row_residual, first_rows, bins, grid),
        profile=((level - amplifier.sky_e) / amplifier.sky_sigma_e).reshape(n, grid.profile_size).astype(np.float32),
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


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _cut_residuals(lines, size, corners, first_rows, bins, strips, live):  # pragma: no cover - compiled
    """Write binned residuals (b, y, x, t) from corners (y, x), and whether each binned row has a live pixel (b, t)."""
    n_rows, n_binned = lines.shape[1], strips.shape[3]
    count = np.empty(n_binned, np.float32)
    for i in range(len(strips)):
        values, known = np.zeros((2, n_binned * bins[i]), np.float32)
        start, stop = max(first_rows[i], 0), min(first_rows[i] + len(values), n_rows)
        if start >= stop:
            continue
        inside = slice(start - first_rows[i], stop - first_rows[i])
        for dy in range(strips.shape[1]):
            for dx in range(strips.shape[2]):
                y, x = corners[i, 0] + dy, corners[i, 1] + dx
                if 0 <= y < size[0] and 0 <= x < size[1]:
                    raw = lines[y * size[1] + x][start:stop]
                    known[inside] = 1
                    if unpack_line(raw, values[inside]):
                        mark_live(raw, known[inside])
                    sum_bins(values, bins[i], strips[i, dy, dx])
                    sum_bins(known, bins[i], count)
                    for b in range(n_binned):
                        strips[i, dy, dx, b] /= np.sqrt(max(count[b], np.float32(1)))
                        live[i, b] |= count[b] > 0


def _cut_rows(series: np.ndarray, first_rows: np.ndarray, bins: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """Binned pieces of a series per row, (b, n, r), 0 beyond its ends, scaled as `_cut_residuals`."""
    pieces = np.zeros((len(bins), grid.n_rows), dtype=np.float32)
    for factor in np.unique(bins):
        same = np.flatnonzero(bins == factor)
        rows = first_rows[same, None] + np.arange(grid.n_rows * factor)
        inside = (rows >= 0) & (rows < len(series))
        values = np.where(inside, series[np.clip(rows, 0, len(series) - 1)], np.float32(0))
        pieces[same] = values.reshape(len(same), grid.n_rows, factor).sum(axis=2) / np.sqrt(np.float32(factor))
    return pieces.reshape(len(bins), grid.n_tokens, grid.patch_rows)


def _cut_baselines(amplifier: Amplifier, corners: np.ndarray, grid: TokenGrid, rows: np.ndarray) -> np.ndarray:
    """Baselines (b, y, x) of strips at their middle rows; pixels beyond the border repeat the last."""
    y, x = (
        np.clip(corners[:, axis, None] + np.arange(n), 0, limit - 1)
        for axis, n, limit in zip((0, 1), (grid.n_y, grid.n_columns), amplifier.residual.shape, strict=False)
    )
    return amplifier.baseline_e[y[:, :, None], x[:, None, :], amplifier.block_of(rows)[:, None, None]]
