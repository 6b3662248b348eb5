"""Solve for fluxes and position errors of overlapping streaks by banded normal equations, compiled.

The model ``Σ F P(c - x)`` is linear in ``F`` and, near the present positions, in ``u = F dx``. One banded solve
therefore gives fluxes and position errors.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from shutterless.pipeline.calibration.streaks.deblending import factorise

FLUX_RIDGE, SHIFT_RIDGE = 1e-9, 1e-3  # of the diagonal; shifts of streaks a pixel apart are nearly degenerate
_ROOT_HALF, _ROOT_2PI = math.sqrt(0.5), math.sqrt(2 * math.pi)


@numba.njit(cache=True, nogil=True)
def profile_taps(x, width_px, half):  # pragma: no cover - compiled
    """First fitted column of each streak (s,), and P, dP/dx and dP/dσ on ``2 half + 1`` columns from there (s, 3, k).

    Each streak has its own width. ``P`` is `shutterless.pipeline.psf.pixel_profile`; its derivatives are differences of
    Gaussians.
    """
    n_streaks, n_taps = len(x), 2 * half + 1
    first = np.empty(n_streaks, dtype=np.int64)
    taps = np.empty((n_streaks, 3, n_taps))
    for s in range(n_streaks):
        sigma_px = width_px[s]
        first[s] = round(x[s]) - half
        z = (first[s] - 0.5 - x[s]) / sigma_px
        below = 0.5 * (1 + math.erf(z * _ROOT_HALF))
        density = math.exp(-0.5 * z * z) / _ROOT_2PI
        for k in range(n_taps):
            above_z = (first[s] + k + 0.5 - x[s]) / sigma_px
            above = 0.5 * (1 + math.erf(above_z * _ROOT_HALF))
            above_density = math.exp(-0.5 * above_z * above_z) / _ROOT_2PI
            taps[s, 0, k] = above - below
            taps[s, 1, k] = (density - above_density) / sigma_px
            taps[s, 2, k] = (z * density - above_z * above_density) / sigma_px
            z, below, density = above_z, above, above_density
    return first, taps


@numba.njit(cache=True, nogil=True)
def add_profiles(first, taps, flux, n_columns, kind=0):  # pragma: no cover - compiled
    """Light of all streaks on the columns, (x,); with ``kind`` 1 or 2 the sum of their dP/dx or dP/dσ times flux."""
    model = np.zeros(n_columns)
    for s in range(len(first)):
        for k in range(taps.shape[2]):
            if 0 <= first[s] + k < n_columns:
                model[first[s] + k] += flux[s] * taps[s, kind, k]
    return model


@numba.njit(cache=True, nogil=True)
def solve_streaks(signal, weight, first, taps):  # pragma: no cover - compiled
    """Fluxes F and shifts times flux ``u``, (s,), and the Cholesky factor of the normal matrix; streaks sorted by x.

    ``weight`` (x,) is the inverse variance of ``signal``, 0 in bad columns. Parameters alternate (F, u, F, u, …), so
    that every other element of the inverse's diagonal is the variance of a flux with all positions free.
    """
    n_streaks, n_taps, n_columns = len(first), taps.shape[2], len(signal)
    reach = 0
    oldest = 0
    for s in range(n_streaks):
        while first[s] - first[oldest] >= n_taps:
            oldest += 1
        reach = max(reach, s - oldest)
    matrix = np.zeros((2 * n_streaks, 2 * reach + 2))  # row p, distance d: element (p, p - d)
    solution = np.zeros(2 * n_streaks)
    for s in range(n_streaks):
        for k in range(max(-first[s], 0), min(n_taps, n_columns - first[s])):
            c = first[s] + k
            for i in range(2):
                weighted = taps[s, i, k] * weight[c]
                solution[2 * s + i] += weighted * signal[c]
                for other in range(s, -1, -1):
                    tap = c - first[other]
                    if tap >= n_taps:
                        break
                    for j in range(2):
                        distance = 2 * (s - other) + i - j
                        if distance >= 0:
                            matrix[2 * s + i, distance] += weighted * taps[other, j, tap]
        matrix[2 * s, 0] += FLUX_RIDGE * matrix[2 * s, 0] + 1e-30
        matrix[2 * s + 1, 0] += SHIFT_RIDGE * matrix[2 * s + 1, 0] + 1e-30
    factorise(matrix)
    band = matrix.shape[1] - 1
    for p in range(2 * n_streaks):
        for d in range(1, min(band, p) + 1):
            solution[p] -= matrix[p, d] * solution[p - d]
        solution[p] /= matrix[p, 0]
    for p in range(2 * n_streaks - 1, -1, -1):
        for d in range(1, min(band, 2 * n_streaks - 1 - p) + 1):
            solution[p] -= matrix[p + d, d] * solution[p + d]
        solution[p] /= matrix[p, 0]
    return solution[::2], solution[1::2], matrix


@numba.njit(cache=True, nogil=True)
def measure_widths(residual, weight, first, taps, flux):  # pragma: no cover - compiled
    """Correction to the width of each streak, its flux fitted too, and the inverse variance of the correction, (s,)."""
    n_streaks, n_taps, n_columns = len(first), taps.shape[2], len(residual)
    step, information = np.zeros(n_streaks), np.zeros(n_streaks)
    for s in range(n_streaks):
        pp = pw = ww = pr = wr = 0.0
        for k in range(max(-first[s], 0), min(n_taps, n_columns - first[s])):
            c = first[s] + k
            p, w = taps[s, 0, k], taps[s, 2, k] * flux[s]
            pp += p * p * weight[c]
            pw += p * w * weight[c]
            ww += w * w * weight[c]
            pr += p * residual[c] * weight[c]
            wr += w * residual[c] * weight[c]
        if pp > 0:
            information[s] = max(ww - pw * pw / pp, 0.0)
            if information[s] > 0:
                step[s] = (wr - pr * pw / pp) / information[s]
    return step, information


@numba.njit(cache=True, nogil=True)
def misfits(columns, light, noise, x, width_px):  # pragma: no cover - compiled
    """Chi-square of one streak with free position and flux, without each column in turn and with all, (w + 1,)."""
    n_columns = len(columns)
    found = np.empty(n_columns + 1)
    for left_out in range(n_columns + 1):
        place = x
        for _ in range(4):
            pp = ps = ss = pl = sl = ll = 0.0
            for k in range(n_columns):
                if k == left_out:
                    continue
                below, above = (columns[k] - 0.5 - place) / width_px, (columns[k] + 0.5 - place) / width_px
                p = 0.5 * (math.erf(above * _ROOT_HALF) - math.erf(below * _ROOT_HALF)) / noise[k]
                s = (math.exp(-0.5 * below**2) - math.exp(-0.5 * above**2)) / (_ROOT_2PI * width_px * noise[k])
                y = light[k] / noise[k]
                pp, ps, ss, pl, sl, ll = pp + p * p, ps + p * s, ss + s * s, pl + p * y, sl + s * y, ll + y * y
            determinant = pp * ss - ps * ps
            if determinant <= 0:
                break
            flux, u = (pl * ss - sl * ps) / determinant, (sl * pp - pl * ps) / determinant
            found[left_out] = ll - flux * pl - u * sl
            if flux <= 0:
                break
            place += min(max(u / flux, -0.4), 0.4)
        if determinant <= 0:
            found[left_out] = ll
    return found
