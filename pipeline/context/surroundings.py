"""Measure the light of a trigger's place before, during and after it, and how its streak moved and widened.

One compiled loop treats all triggers of an amplifier. For each it reads the residuals of the columns around the trigger
once, from some seconds before it to some seconds after it.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.compiled.residual_lines import compiled_lines, mark_live, unpack_line
from shutterless.pipeline.detection.scan import whitened
from shutterless.pipeline.psf import pixel_profile, psf_half_width
from shutterless.pipeline.reading.readout import Readout

# of these everything is an S/N, signed so that the trigger's own is positive, unless its name says otherwise
SURROUNDINGS = (
    "box_snr",
    "before_2",
    "before_1",
    "after_1",
    "after_2",
    "first_half",
    "second_half",
    "scatter_of_width",
    "highest_of_width",
    "n_boxes_of_width",
    "scatter_short",
    "scatter_medium",
    "scatter_long",
    "flux_snr",
    "shift_snr",
    "widening_snr",
    "place_chi2",
    "flank_scatter",
    "shift_scatter",
    "widening_scatter",
    "row_offset_snr",
    "live_share",
    "live_share_near",
    "filter_share",
    "column_noise",
)
SCATTER_S = (0.02, 0.1, 0.5)  # lengths of the boxes whose scatter is measured: a few rows, image motion, cloud
REACH_S = 5.0  # on either side of a trigger; a long trigger reaches `REACH_WIDTHS` of its lengths
REACH_WIDTHS = 8
LONGEST_REACH_S = 14.0
_STEP_PX = 0.01
_LEAST_LIVE = 0.5


class _Scales(NamedTuple):
    """Lengths in rows: of the three boxes, and the reach on either side of a trigger."""

    short: int
    medium: int
    long: int
    reach: int
    longest_reach: int

    @classmethod
    def of(cls, readout: Readout) -> _Scales:
        rows = [readout.rows_of(seconds) for seconds in (*SCATTER_S, REACH_S, LONGEST_REACH_S)]
        return cls(*rows)


def measure_surroundings(amplifier: Amplifier, triggers: pd.DataFrame) -> pd.DataFrame:
    """Measure the surroundings of the triggers of an amplifier of continuous readout.

    Parameters
    ----------
    amplifier : Amplifier
    triggers : DataFrame
        With ``x``, ``row_start``, ``row_stop`` and ``snr``.

    Returns
    -------
    DataFrame
        `SURROUNDINGS`, float64, in the order of the triggers.

    Notes
    -----
    L is the number of rows of the trigger. f(t) is the light of its place in row t, in units of its noise: the sum of
    the residuals of the columns around it, weighted as in the scan (`shutterless.pipeline.detection.scan.Footprint`).
    A box S/N is Σ f / √rows.

    ``box_snr``: of the trigger's own rows. ``before_2``, ``before_1``, ``after_1``, ``after_2``: of the boxes of L rows
    next to it. ``first_half``, ``second_half``: of its halves. ``scatter_of_width``, ``highest_of_width``,
    ``n_boxes_of_width``: rms, largest absolute value and number of the boxes of L rows around it, without those from
    one length before it to three lengths after it. ``scatter_short`` to ``scatter_long``: rms of boxes of `SCATTER_S`.

    ``flux_snr``, ``shift_snr``, ``widening_snr``: the residuals of the trigger's rows, summed column by column, are
    fitted with ``a P + b dP/dx + c dP/dσ`` by least squares; the S/N of a, b and c, the other two being free. A star
    that moved or widened gives a small ``flux_snr``. ``shift_snr`` is without sign. ``place_chi2``: χ² per degree of
    freedom of that fit. ``shift_scatter``, ``widening_scatter``: mean square of b and c of the trigger's single rows
    (in 16 bins if it is longer), in units of their errors; 1 for noise. ``flank_scatter``: rms of the residuals of the
    columns around the place, outside the trigger.

    ``filter_share``: share of the S/N in white noise that the filter of the place keeps, 1 in still air;
    ``column_noise``: variance of the place's light that the covariance of its columns gives, 1 for white noise.
    ``row_offset_snr``: S/N that the shared row residual, which was subtracted, would have had. ``live_share``: of the
    trigger's rows in which at least half of the weight is not masked; ``live_share_near``: of all rows around it.
    """
    half = psf_half_width(amplifier.psf_sigma_px) + 1
    x = triggers["x"].to_numpy(dtype=np.float64)
    start, stop = (triggers[name].to_numpy(dtype=np.int64) for name in ("row_start", "row_stop"))
    first = np.round(x).astype(np.int64) - half
    inside = np.clip(first[:, None] + np.arange(2 * half + 1), 0, amplifier.n_columns - 1)
    blocks = amplifier.block_of((start + stop) // 2)
    sigma = amplifier.sigma_e[0, inside, np.asarray(blocks)[:, None]].astype(np.float64)
    design = _place_design(x - first, sigma, amplifier.psf_sigma_px)
    out = np.full((len(triggers), len(SURROUNDINGS)), np.nan)
    column = np.clip(first + half, 0, amplifier.n_columns - 1)
    filters = whitened(amplifier, column, design[:, 0])
    filters = filters / np.linalg.norm(filters, axis=1, keepdims=True)
    out[:, -2] = np.sum(filters * design[:, 0], axis=1)
    out[:, -1] = _noise_of_light(amplifier, column, design[:, 0])
    _measure_all(
        compiled_lines(amplifier.residual), first, start, stop + 1, np.sign(triggers["snr"].to_numpy(np.float64)),
        design, filters, _estimators(design), amplifier.row_residual.astype(np.float32),
        np.median(amplifier.sigma_e) / sigma, _Scales.of(amplifier.readout), out,
    )  # fmt: skip
    return pd.DataFrame(out, columns=list(SURROUNDINGS), index=triggers.index)


def _place_design(offset: np.ndarray, sigma_e: np.ndarray, sigma_px: float) -> np.ndarray:
    """``P/σ``, ``dP/dx/σ`` and ``dP/dσ/σ`` on the columns around each place, each of unit length; (n, 3, w)."""
    columns = np.arange(sigma_e.shape[1]) - offset[:, None]
    profile = pixel_profile(columns, sigma_px)
    shift = pixel_profile(columns - _STEP_PX, sigma_px) - pixel_profile(columns + _STEP_PX, sigma_px)
    widen = pixel_profile(columns, sigma_px + _STEP_PX) - pixel_profile(columns, sigma_px - _STEP_PX)
    design = np.stack([profile, shift, widen], axis=1) / sigma_e[:, None]
    return design / np.linalg.norm(design, axis=2, keepdims=True)


def _noise_of_light(amplifier: Amplifier, column: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Variance Pᵀ C P of light of unit norm (n, w) around each column."""
    covariance = amplifier.column_covariance
    if covariance is None:
        return np.ones(len(column))
    return np.einsum("ni,nij,nj->n", light, covariance[column], light)


def _estimators(design: np.ndarray) -> np.ndarray:
    """Rows that give the S/N of each of the three amplitudes, the others being free, from residuals in σ; (n, 3, w)."""
    inverse = np.linalg.inv(design @ design.transpose(0, 2, 1))
    error = np.sqrt(np.diagonal(inverse, axis1=1, axis2=2))
    return (inverse @ design) / error[:, :, None]


@numba.njit(cache=True, nogil=True)
def _measure_all(
    lines, first, start, stop, sign, design, filters, estimators, row_residual, row_scale, scales, out
):  # pragma: no cover - compiled
    """Write `SURROUNDINGS` of every trigger to ``out`` (n, f)."""
    n_rows, n_pixels = lines.shape[1], design.shape[2]
    longest = 0
    for i in range(len(first)):
        longest = max(longest, stop[i] - start[i])
    room = longest + 2 * max(scales.reach, scales.longest_reach)
    values, live = np.empty((n_pixels, room), np.float32), np.empty((n_pixels, room), np.float32)
    light, valid = np.empty(room), np.empty(room)
    sums = np.empty(n_pixels)
    for i in range(len(first)):
        length = stop[i] - start[i]
        reach = min(max(scales.reach, REACH_WIDTHS * length), scales.longest_reach)
        low, high = max(start[i] - reach, 0), min(stop[i] + reach, n_rows)
        n = high - low
        _read(lines, first[i], low, high, values, live)
        _filter(values, live, filters[i], n, light, valid)
        a, b = start[i] - low, stop[i] - low
        row = out[i]
        for k, box in enumerate(
            (
                (a, b),
                (a - 2 * length, a - length),
                (a - length, a),
                (b, b + length),
                (b + length, b + 2 * length),
                (a, a + (length + 1) // 2),
                (a + length // 2, b),
            )
        ):
            row[k] = sign[i] * _box(light, valid, box[0], box[1], n)
        row[7], row[8], row[9] = _scatter(light, valid, length, a, b, n)
        row[10] = _scatter(light, valid, scales.short, a, b, n)[0]
        row[11] = _scatter(light, valid, scales.medium, a, b, n)[0]
        row[12] = _scatter(light, valid, scales.long, a, b, n)[0]
        n_used = _sum_columns(values, live, a, b, sums)
        _fit_place(sums, n_used, design[i], estimators[i], sign[i], row[13:17])
        row[17] = _rms_outside(values, live, a - length, b + 3 * length, n)
        row[18], row[19] = _row_fits(values, a, b, estimators[i])
        offset = 0.0
        for t in range(a, b):
            offset += row_residual[low + t]
        gain = 0.0
        for p in range(n_pixels):
            gain += design[i, 0, p] * row_scale[i, p]
        row[20] = sign[i] * offset * gain / np.sqrt(length)
        row[21], row[22] = _mean(valid, a, b), _mean(valid, 0, n)


@numba.njit(cache=True, nogil=True)
def _read(lines, first, low, high, values, live):  # pragma: no cover - compiled
    """Residuals of some columns in rows ``low`` to ``high``, masked ones 0, and whether each is live."""
    n = high - low
    for p in range(len(values)):
        column = first + p
        if column < 0 or column >= len(lines):
            values[p, :n], live[p, :n] = 0, 0
            continue
        raw = lines[column][low:high]
        live[p, :n] = 1
        if unpack_line(raw, values[p, :n]):
            mark_live(raw, live[p, :n])


@numba.njit(cache=True, nogil=True)
def _filter(values, live, weight, n, light, valid):  # pragma: no cover - compiled
    """Weighted sum of the columns in units of its noise; 0 and not valid where less than half the weight is live."""
    light[:n], valid[:n] = 0, 0
    for p in range(len(values)):
        w, square = weight[p], weight[p] ** 2
        own, known = values[p], live[p]
        for t in range(n):
            light[t] += w * own[t]
            valid[t] += square * known[t]
    for t in range(n):
        if valid[t] >= _LEAST_LIVE:
            light[t] /= np.sqrt(valid[t])
            valid[t] = 1
        else:
            light[t], valid[t] = 0, 0


@numba.njit(cache=True, nogil=True)
def _box(light, valid, start, stop, n):  # pragma: no cover - compiled
    """S/N of a box; NaN unless at least half of it is live."""
    total, count = 0.0, 0.0
    for t in range(max(start, 0), min(stop, n)):
        total += light[t]
        count += valid[t]
    return total / np.sqrt(count) if count > 0 and count >= _LEAST_LIVE * (stop - start) else np.nan


@numba.njit(cache=True, nogil=True)
def _scatter(light, valid, length, a, b, n):  # pragma: no cover - compiled
    """Rms, largest absolute value and number of boxes of a length, away from an event in rows ``a`` to ``b``."""
    before, after = a - (b - a), b + 3 * (b - a)
    square, highest, count = 0.0, 0.0, 0
    stop = before
    while stop - length >= 0:
        snr = _box(light, valid, stop - length, stop, n)
        if snr == snr:
            square, highest, count = square + snr**2, max(highest, abs(snr)), count + 1
        stop -= length
    start = after
    while start + length <= n:
        snr = _box(light, valid, start, start + length, n)
        if snr == snr:
            square, highest, count = square + snr**2, max(highest, abs(snr)), count + 1
        start += length
    return (np.sqrt(square / count), highest, np.float64(count)) if count else (np.nan, np.nan, 0.0)


@numba.njit(cache=True, nogil=True)
def _sum_columns(values, live, a, b, sums):  # pragma: no cover - compiled
    """Sum over rows ``a`` to ``b`` of each column over √(live rows); return the number of columns with any."""
    n_used = 0
    for p in range(len(values)):
        total, count = 0.0, 0.0
        for t in range(a, b):
            total += values[p, t]
            count += live[p, t]
        sums[p] = total / np.sqrt(count) if count > 0 else 0.0
        n_used += count > 0
    return n_used


@numba.njit(cache=True, nogil=True)
def _fit_place(sums, n_used, design, estimators, sign, out):  # pragma: no cover - compiled
    """S/N of flux, shift and widening with the others free, and χ² per degree of freedom of the fit."""
    for k in range(3):
        total = 0.0
        for p in range(len(sums)):
            total += estimators[k, p] * sums[p]
        out[k] = abs(total) if k == 1 else sign * total
    # residual after the three modes: by Gram–Schmidt
    left = sums.copy()
    basis = design.copy()
    for k in range(3):
        for j in range(k):
            dot = 0.0
            for p in range(len(sums)):
                dot += basis[k, p] * basis[j, p]
            for p in range(len(sums)):
                basis[k, p] -= dot * basis[j, p]
        norm = 0.0
        for p in range(len(sums)):
            norm += basis[k, p] ** 2
        dot = 0.0
        for p in range(len(sums)):
            basis[k, p] /= np.sqrt(norm)
            dot += basis[k, p] * left[p]
        for p in range(len(sums)):
            left[p] -= dot * basis[k, p]
    total = 0.0
    for p in range(len(sums)):
        total += left[p] ** 2
    out[3] = total / max(n_used - 3, 1)


@numba.njit(cache=True, nogil=True)
def _rms_outside(values, live, a, b, n):  # pragma: no cover - compiled
    """Rms of live residuals outside rows ``a`` to ``b``."""
    total, count = 0.0, 0.0
    for p in range(len(values)):
        for t in range(max(min(a, n), 0)):
            total += np.float64(values[p, t]) ** 2
            count += live[p, t]
        for t in range(max(b, 0), n):
            total += np.float64(values[p, t]) ** 2
            count += live[p, t]
    return np.sqrt(total / count) if count else np.nan


@numba.njit(cache=True, nogil=True)
def _row_fits(values, a, b, estimators):  # pragma: no cover - compiled
    """Mean square of the S/N of shift and widening of single rows, in 16 bins if there are more."""
    bin_rows = max((b - a) // 16, 1)
    n_bins = (b - a) // bin_rows
    shift, widening = 0.0, 0.0
    for k in range(n_bins):
        one, two = 0.0, 0.0
        for p in range(len(values)):
            total = 0.0
            for t in range(a + k * bin_rows, a + (k + 1) * bin_rows):
                total += values[p, t]
            one += estimators[1, p] * total
            two += estimators[2, p] * total
        shift += one**2 / bin_rows
        widening += two**2 / bin_rows
    return shift / n_bins, widening / n_bins


@numba.njit(cache=True, nogil=True)
def _mean(values, start, stop):  # pragma: no cover - compiled
    total = 0.0
    for t in range(start, stop):
        total += values[t]
    return total / max(stop - start, 1)
