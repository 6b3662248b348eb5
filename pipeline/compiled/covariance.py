"""Measure how neighbouring lines of residuals vary together, in bins of rows, and turn that into filters."""

from __future__ import annotations

import numba
import numpy as np

from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA
from shutterless.pipeline.compiled.residual_lines import mark_live, sum_bins, unpack_line

BINNED_ROWS = 16  # image motion and focus change more slowly, so that bins show them above the noise of a row
# fewer bins tell neither what varies nor how, and one event has too large a share of them: at 94 bins an event of 15
# sigma lost 13 % of its S/N
FEWEST_BINS = 256
MOST_BINS = 2048  # spread evenly; more take time and teach nothing
# bins whose sum over so many of them lies beyond so many scatters of such sums of their line are left out: an event is
# no noise, however long
EVENT_BINS, BIN_OUTLIER_SIGMA = (1, 4, 16), 6.0
_FEWEST_SUMS = 32
_EDGE_MARGIN = 1.1  # of the largest eigenvalue that white noise has in 3,072 lines over its limit for many


def covariance_of_columns(lines: np.ndarray, n_neighbours: int, bin_rows: int = BINNED_ROWS) -> np.ndarray:
    """Covariance of each line with its neighbours, as far as it differs from that of white noise.

    Parameters
    ----------
    lines : ndarray, shape (x, t)
        Lines of `shutterless.pipeline.compiled.residual_lines.compiled_lines`, in units of σ.
    n_neighbours : int
        To either side.
    bin_rows : int
        Rows whose sum is taken before lines are compared.

    Returns
    -------
    ndarray of float64, shape (x, k, k)
        With ``k = 2 n_neighbours + 1``, for each line. It is exactly the identity where no eigenvalue exceeds what
        white noise gives in as many bins, (1 + √(k / bins))² (Marchenko & Pastur 1967, Math. USSR Sb. 1, 457).
        Elsewhere the eigenvalues below that limit are set to 1. Neighbours beyond the borders are white, and so is
        everything with fewer than `FEWEST_BINS`.
    """
    n_lines, n_rows = lines.shape
    n_bins = min(n_rows // bin_rows, MOST_BINS)
    k = 2 * n_neighbours + 1
    covariance = np.broadcast_to(np.eye(k), (n_lines, k, k)).copy()
    if n_bins < max(FEWEST_BINS, 2 * k):
        return covariance
    starts = np.linspace(0, n_rows - bin_rows, n_bins).astype(np.int64)
    bins = np.empty((n_lines, n_bins), dtype=np.float32)
    _bin_lines(lines, starts, bin_rows, bins)
    products = np.zeros((k, n_lines))
    _neighbour_products(bins, products)
    limit = _EDGE_MARGIN * (1 + np.sqrt(k / n_bins)) ** 2
    rows, columns = np.triu_indices(k)
    place = np.arange(n_lines)[:, None] + np.minimum(rows, columns) - n_neighbours
    lag = columns - rows
    inside = (place >= 0) & (place + lag < n_lines)
    values = products[lag, np.clip(place, 0, n_lines - 1)]
    is_white = (lag == 0) & ~(inside & np.isfinite(values))
    values = np.where(is_white, 1.0, np.where(inside & np.isfinite(values), values, 0.0))
    restless = np.flatnonzero(np.abs(values - (lag == 0)).max(axis=1) > 0.25 * (limit - 1))
    found = np.empty((len(restless), k, k))
    found[:, rows, columns] = found[:, columns, rows] = values[restless]
    eigenvalues, vectors = np.linalg.eigh(found)
    eigenvalues = np.where(eigenvalues > limit, eigenvalues, 1.0)
    moving = eigenvalues.max(axis=1) > 1
    covariance[restless[moving]] = _recombine(eigenvalues[moving], vectors[moving])
    return covariance


def inverse_roots(covariance: np.ndarray) -> np.ndarray:
    """Symmetric inverse square root of each matrix (n, k, k); the identity stays exactly the identity."""
    eye = np.eye(covariance.shape[1])
    roots = np.broadcast_to(eye, covariance.shape).copy()
    moving = np.flatnonzero(np.any(covariance != eye, axis=(1, 2)))
    eigenvalues, vectors = np.linalg.eigh(covariance[moving])
    roots[moving] = _recombine(eigenvalues**-0.5, vectors)
    return roots


def _recombine(eigenvalues: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return (vectors * eigenvalues[:, None, :]) @ vectors.transpose(0, 2, 1)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _bin_lines(lines, starts, bin_rows, bins):  # pragma: no cover - compiled
    """Sums of rows over √(live rows); NaN where fewer than half are live, or where an event is."""
    n_rows = lines.shape[1]
    values, live = np.empty(n_rows, np.float32), np.empty(n_rows, np.float32)
    total, count = np.empty(1, np.float32), np.full(1, np.float32(bin_rows))
    for line in range(len(lines)):
        own, any_masked = bins[line], unpack_line(lines[line], values)
        if any_masked:
            mark_live(lines[line], live)
        for b in range(len(starts)):
            rows = slice(starts[b], starts[b] + bin_rows)
            if any_masked:
                sum_bins(live[rows], bin_rows, count)
            else:
                count[0] = bin_rows
            sum_bins(values[rows], bin_rows, total)
            own[b] = total[0] / np.sqrt(count[0]) if 2 * count[0] >= bin_rows else np.float32(np.nan)
        for n_joined in EVENT_BINS:
            _drop_outliers(own, n_joined)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _drop_outliers(bins, n_joined):  # pragma: no cover - compiled
    """Set bins to NaN whose sum with their neighbours is beyond `BIN_OUTLIER_SIGMA` of the scatter of such sums."""
    step = max(n_joined // 2, 1)
    n_sums = (len(bins) - n_joined) // step + 1
    if n_sums < _FEWEST_SUMS:
        return
    sums = np.empty(n_sums, np.float32)
    for i in range(n_sums):
        total, count = np.float32(0), np.float32(0)
        for b in range(i * step, i * step + n_joined):
            known = bins[b] == bins[b]
            total += bins[b] if known else np.float32(0)
            count += np.float32(1) if known else np.float32(0)
        sums[i] = total / np.sqrt(max(count, np.float32(1)))
    distances = np.abs(sums)
    if distances.max() <= BIN_OUTLIER_SIGMA:  # whatever the scatter is
        return
    limit = BIN_OUTLIER_SIGMA * max(np.float32(MAD_TO_SIGMA) * np.median(distances), np.float32(1))
    for i in range(n_sums):
        if abs(sums[i]) > limit:
            bins[i * step : i * step + n_joined] = np.float32(np.nan)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _neighbour_products(bins, products):  # pragma: no cover - compiled
    """Mean product of each line with the line ``lag`` after it, over the bins that both have; (lag, x)."""
    for line in range(len(bins)):
        for lag in range(min(len(products), len(bins) - line)):
            one, other = bins[line], bins[line + lag]
            total, count = np.float32(0), np.float32(0)
            for b in range(len(one)):
                product = one[b] * other[b]
                known = product == product
                total += product if known else np.float32(0)
                count += np.float32(1) if known else np.float32(0)
            products[lag, line] = total / count
