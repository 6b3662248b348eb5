"""Stage 1: a matched filter over every column, the PSF across columns and boxes of 1 to 1,024 rows along time.

It proposes: every place where some box of either sign stands above a low threshold becomes a trigger, once. What a
trigger is then worth, `shutterless.pipeline.triggers` finds out.
"""

from __future__ import annotations

import numba
import numpy as np
import pandas as pd

from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.store import Amplifier
from shutterless.pipeline.streaks import nearest_streak

BOX_WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
TRIGGER_THRESHOLD = 5.0  # about one noise trigger per amplifier-second; cosmic rays add 0.85
SAME_CAUSE_COLUMNS = 3  # triggers this close, in overlapping rows, are one
MIN_LIVE_FRACTION = 0.5  # a box or a PSF with more of it masked says nothing
_COLUMNS_AT_ONCE = 64
_STRIDES_PER_BOX = 8  # long boxes are tried at every eighth of their width, which costs at most 3 % of their S/N


def psf_half_width(sigma_px: float) -> int:
    """Columns to either side of a source that hold all but 0.1 % of its light."""
    return max(int(np.ceil(3.5 * sigma_px)), 1)


def column_kernels(amplifier: Amplifier) -> np.ndarray:
    """Matched filter across columns, for a source in each column.

    Returns
    -------
    ndarray of float32, shape (x, 2 h + 1)
        ``(P / σ) / √Σ(P / σ)²``, so that filtered residuals of pure noise have unit variance. ``P`` is centred on the
        streak within half a pixel of the column where there is one, otherwise on the column.
    """
    columns = np.arange(amplifier.n_columns)
    streak = nearest_streak(amplifier.streaks, columns, within_px=0.5)
    centre = columns.astype(np.float64)
    centre[streak >= 0] = amplifier.streaks["x"].to_numpy()[streak[streak >= 0]]
    half = psf_half_width(amplifier.psf_sigma_px)
    taps = columns[:, None] + np.arange(-half, half + 1)
    sigma = amplifier.sigma_e[0].mean(axis=1)
    weight = pixel_profile(taps - centre[:, None], amplifier.psf_sigma_px) / sigma[np.clip(taps, 0, columns.size - 1)]
    weight[(taps < 0) | (taps >= columns.size)] = 0
    return (weight / np.sqrt(np.sum(weight**2, axis=1, keepdims=True))).astype(np.float32)


def scan(amplifier: Amplifier, threshold: float = TRIGGER_THRESHOLD) -> pd.DataFrame:
    """Find every place where a box template of either sign stands out, each cause once.

    Parameters
    ----------
    amplifier : Amplifier
    threshold : float
        Smallest S/N of a trigger.

    Returns
    -------
    DataFrame
        ``x`` (column), ``row_start``, ``width_rows`` and ``snr`` (signed), ordered by row and column.
    """
    kernels = column_kernels(amplifier)
    half = kernels.shape[1] // 2
    residual = amplifier.residual[0]
    widths = np.asarray([width for width in BOX_WIDTHS if width <= amplifier.n_rows], dtype=np.int64)
    found = []
    for start in range(0, amplifier.n_columns, _COLUMNS_AT_ONCE):
        stop = min(start + _COLUMNS_AT_ONCE, amplifier.n_columns)
        first, last = max(start - half, 0), min(stop + half, amplifier.n_columns)
        block = np.zeros((stop - start + 2 * half, amplifier.n_rows), dtype=np.float32)
        block[first - start + half : last - start + half] = residual[first:last]
        hits = _scan_columns(block, kernels[start:stop], widths, np.float32(threshold))
        hits[:, 0] += start
        found.append(hits)
    return _keep_strongest(np.concatenate(found), widths)


def _keep_strongest(hits: np.ndarray, widths: np.ndarray) -> pd.DataFrame:
    """One trigger per cause: the strongest of those within `SAME_CAUSE_COLUMNS` and one width in rows."""
    order = np.lexsort((hits[:, 1], hits[:, 0], -np.abs(hits[:, 3])))
    hits = hits[order]
    kept = hits[_suppress(hits, SAME_CAUSE_COLUMNS)]
    kept = kept[np.lexsort((kept[:, 0], kept[:, 1]))]
    return pd.DataFrame(
        {
            "x": kept[:, 0].astype(np.int64),
            "row_start": kept[:, 1].astype(np.int64),
            "width_rows": kept[:, 2].astype(np.int64),
            "snr": kept[:, 3],
        }
    )


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _scan_columns(block, kernels, widths, threshold):  # pragma: no cover - compiled
    """Hits (column, first row, width, S/N) of ``block`` (x + 2 h, t), whose NaN are masked."""
    n_columns, n_taps = kernels.shape
    n_rows = block.shape[1]
    hits = [(0.0, 0.0, 0.0, 0.0)]  # the first entry tells the compiler the type
    cumulative = np.empty(n_rows + 1, dtype=np.float32)
    live = np.empty(n_rows + 1, dtype=np.float32)
    series = np.empty(n_rows, dtype=np.float32)
    masked = np.zeros(block.shape[0], dtype=np.bool_)
    for row in range(block.shape[0]):
        for t in range(n_rows):
            if block[row, t] != block[row, t]:
                masked[row] = True
                break
    for column in range(n_columns):
        any_masked = False
        for tap in range(n_taps):
            any_masked = any_masked or masked[column + tap]
        if any_masked:
            n_live = _filter_masked(block, kernels[column], column, series, live)
        else:
            _filter_whole(block, kernels[column], column, series)
            n_live = n_rows
        total = 0.0
        cumulative[0] = 0
        for t in range(n_rows):
            total += series[t]
            cumulative[t + 1] = total
        if n_live:
            for width in widths:
                _scan_box(cumulative, live, any_masked, column, width, threshold, hits)
    return np.array(hits)[1:]


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _filter_whole(block, kernel, column, series):  # pragma: no cover - compiled
    n_rows = block.shape[1]
    first = block[column]
    for t in range(n_rows):
        series[t] = kernel[0] * first[t]
    for tap in range(1, len(kernel)):
        weight = kernel[tap]
        line = block[column + tap]
        for t in range(n_rows):
            series[t] += weight * line[t]


@numba.njit(cache=True, nogil=True)
def _filter_masked(block, kernel, column, series, live):  # pragma: no cover - compiled
    """As `_filter_whole` over the live pixels, scaled to unit variance; counts live rows cumulatively."""
    count = np.float32(0)
    live[0] = 0
    for t in range(block.shape[1]):
        total, weight = np.float32(0), np.float32(0)
        for tap in range(len(kernel)):
            value = block[column + tap, t]
            if value == value:
                total += kernel[tap] * value
                weight += kernel[tap] * kernel[tap]
        if weight >= MIN_LIVE_FRACTION:
            series[t] = total / np.sqrt(weight)
            count += 1
        else:
            series[t] = 0
        live[t + 1] = count
    return int(count)


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _scan_box(cumulative, live, any_masked, column, width, threshold, hits):  # pragma: no cover - compiled
    """Append the highest S/N of each run of positions above the threshold, per sign."""
    stride = max(1, width // _STRIDES_PER_BOX)
    n_positions = (len(cumulative) - 1 - width) // stride + 1
    limit = threshold * np.sqrt(np.float32(width))
    best, best_position, last = np.float32(0), -1, -1
    for chunk in range(0, n_positions, 64):
        stop = min(chunk + 64, n_positions)
        highest = np.float32(0)
        for i in range(chunk, stop):
            highest = max(highest, abs(cumulative[i * stride + width] - cumulative[i * stride]))
        if highest < limit * (np.float32(0.7) if any_masked else np.float32(1)):
            continue
        for i in range(chunk, stop):
            norm = np.float32(width)
            if any_masked:
                norm = live[i * stride + width] - live[i * stride]
                if norm < MIN_LIVE_FRACTION * width:
                    continue
            snr = (cumulative[i * stride + width] - cumulative[i * stride]) / np.sqrt(norm)
            if abs(snr) < threshold:
                continue
            if best_position >= 0 and ((i - last) * stride > width or (snr > 0) != (best > 0)):
                hits.append((float(column), float(best_position * stride), float(width), float(best)))
                best = np.float32(0)
            if abs(snr) > abs(best):
                best, best_position = snr, i
            last = i
    if best_position >= 0:
        hits.append((float(column), float(best_position * stride), float(width), float(best)))


@numba.njit(cache=True, nogil=True)
def _suppress(hits, same_columns):  # pragma: no cover - compiled
    """Indices of hits, strongest first, that no stronger one explains."""
    n_columns = int(hits[:, 0].max()) + 1 if len(hits) else 0
    newest = np.full(n_columns, -1, dtype=np.int64)  # last kept hit of a column, and before it the one before
    before = np.full(len(hits), -1, dtype=np.int64)
    kept = np.empty(len(hits), dtype=np.int64)
    n_kept = 0
    for i in range(len(hits)):
        column = int(hits[i, 0])
        explained = False
        for other in range(max(column - same_columns, 0), min(column + same_columns + 1, n_columns)):
            k = newest[other]
            while k >= 0 and not explained:
                explained = (
                    hits[i, 1] <= hits[k, 1] + 2 * hits[k, 2] and hits[i, 1] + hits[i, 2] >= hits[k, 1] - hits[k, 2]
                )
                k = before[k]
        if not explained:
            before[i] = newest[column]
            newest[column] = i
            kept[n_kept] = i
            n_kept += 1
    return kept[:n_kept]
