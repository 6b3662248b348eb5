"""Fit fluxes of overlapping streaks in many rows at once: weighted least squares by banded Cholesky, compiled."""

from __future__ import annotations

import numba
import numpy as np

RIDGE = 1e-9  # of the unmasked diagonal; without it a star without a live pixel makes the matrix singular


@numba.njit(cache=True, nogil=True)
def fit_blocks(
    residual, sigma, lower, fraction, edges, blocks, first, profiles, flux, error
):  # pragma: no cover - compiled
    """Fit streaks to the rows of a chunk; writes ``flux`` and ``error``, (s, n).

    ``residual`` (x, n) is in units of the noise ``sigma`` (x, b), which is linear between block centres: row t lies at
    ``lower[t] + fraction[t]``. Rows ``edges[i]..edges[i + 1]`` are weighted with the noise of block ``blocks[i]``.
    Groups of streaks that do not overlap are fitted separately. Rows with the same live pixels are fitted at once.
    """
    n_columns, n_taps, n_streaks = residual.shape[0], profiles.shape[1], len(first)
    last_block = sigma.shape[1] - 1
    begin = 0
    while begin < n_streaks:
        end, band = begin + 1, 0
        while end < n_streaks and first[end] - first[end - 1] < n_taps:
            nearest = end
            while nearest > begin and first[end] - first[nearest - 1] < n_taps:
                nearest -= 1
            band = max(band, end - nearest)
            end += 1
        left, right = max(first[begin], 0), min(first[end - 1] + n_taps, n_columns)
        for i in range(len(edges) - 1):
            n = edges[i + 1] - edges[i]
            weight = sigma[left:right, blocks[i]].astype(np.float64) ** -2.0
            signal = np.zeros((right - left, n))
            live = np.ones((right - left, n), dtype=np.bool_)
            changed = np.zeros(n, dtype=np.bool_)
            for c in range(right - left):
                for t in range(n):
                    row = edges[i] + t
                    low = sigma[left + c, lower[row]]
                    high = sigma[left + c, min(lower[row] + 1, last_block)]
                    value = residual[left + c, row] * (low + (high - low) * fraction[row]) * weight[c]
                    live[c, t] = value == value
                    signal[c, t] = value if live[c, t] else 0.0
                for t in range(1, n):
                    changed[t] |= live[c, t] != live[c, t - 1]
            run = 0
            for t in range(1, n + 1):
                if t == n or changed[t]:
                    rows = slice(edges[i] + run, edges[i] + t)
                    _solve_run(
                        signal[:, run:t], live[:, run], weight, first[begin:end] - left, profiles[begin:end], band,
                        flux[begin:end, rows], error[begin:end, rows],
                    )  # fmt: skip
                    run = t
        begin = end


@numba.njit(cache=True, nogil=True)
def _solve_run(signal, live, weight, first, profiles, band, flux, error):  # pragma: no cover - compiled
    """Solve the normal equations of rows that share weights and live pixels by one banded Cholesky factor."""
    n_streaks, n_taps = profiles.shape
    n_columns, n = signal.shape
    factor = np.zeros((n_streaks, band + 1))  # row s, distance d: element (s, s - d) of the lower triangle
    flux[:] = 0.0
    for s in range(n_streaks):
        whole = 0.0
        for k in range(n_taps):
            c = first[s] + k
            if c < 0 or c >= n_columns:
                continue
            whole += profiles[s, k] ** 2 * weight[c]
            if not live[c]:
                continue
            for t in range(n):
                flux[s, t] += profiles[s, k] * signal[c, t]
            for d in range(min(band, s) + 1):
                tap = c - first[s - d]
                if tap >= n_taps:
                    break
                factor[s, d] += profiles[s, k] * profiles[s - d, tap] * weight[c]
        factor[s, 0] += RIDGE * whole
    factorise(factor)
    for s in range(n_streaks):
        for d in range(1, min(band, s) + 1):
            for t in range(n):
                flux[s, t] -= factor[s, d] * flux[s - d, t]
        for t in range(n):
            flux[s, t] /= factor[s, 0]
    for s in range(n_streaks - 1, -1, -1):
        for d in range(1, min(band, n_streaks - 1 - s) + 1):
            for t in range(n):
                flux[s, t] -= factor[s + d, d] * flux[s + d, t]
        for t in range(n):
            flux[s, t] /= factor[s, 0]
    variance = inverse_diagonal(factor)
    for s in range(n_streaks):
        core = min(max(first[s] + n_taps // 2, 0), n_columns - 1)
        error[s, :] = np.sqrt(variance[s])
        if not live[core]:
            flux[s, :] = np.nan
            error[s, :] = np.nan


@numba.njit(cache=True, nogil=True)
def factorise(matrix):  # pragma: no cover - compiled
    """Replace a banded symmetric matrix by its Cholesky factor."""
    n, band = matrix.shape[0], matrix.shape[1] - 1
    for i in range(n):
        for d in range(min(band, i), -1, -1):
            j = i - d
            total = matrix[i, d]
            for m in range(max(i - band, 0), j):
                total -= matrix[i, i - m] * matrix[j, j - m]
            matrix[i, d] = total / matrix[j, 0] if d else np.sqrt(total)


@numba.njit(cache=True, nogil=True)
def inverse_diagonal(factor):  # pragma: no cover - compiled
    """Diagonal of the inverse from a banded Cholesky factor, by the recurrence of Erisman & Tinney (1975)."""
    n, band = factor.shape[0], factor.shape[1] - 1
    inverse = np.zeros_like(factor)
    for j in range(n - 1, -1, -1):
        reach = min(n - 1, j + band)
        for i in range(reach, j - 1, -1):
            total = 1 / factor[j, 0] if i == j else 0.0
            for k in range(j + 1, reach + 1):
                total -= factor[k, k - j] * inverse[max(k, i), abs(k - i)]
            inverse[i, i - j] = total / factor[j, 0]
    return inverse[:, 0]
