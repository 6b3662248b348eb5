"""Turn rows of a frame into electrons: bias, non-linearity, gain, and the charge that the serial trap moved."""

from __future__ import annotations

import numba
import numpy as np

from shutterless.pipeline.calibration.serial_trap import remove_serial_trap
from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA
from shutterless.pipeline.reading.frames import Frame
from shutterless.pipeline.reading.instruments import SerialTrap

DIM_ROWS = 64  # samples, whose mean stands out of the read noise
_FIRST_LOOK = 8  # columns that suffice to tell most rows from dropped ones


def overscan_level(overscan_adu: np.ndarray, used: tuple[int, int]) -> np.ndarray:
    """Bias of each row from the overscan columns past the deferred charge.

    Parameters
    ----------
    overscan_adu : ndarray, shape (t, o)
    used : (int, int)
        Half-open range of columns.

    Returns
    -------
    ndarray of float64, shape (t,)
        Mean of the columns, each limited to the row's median ± 5 σ (of the whole block) against cosmic rays.
    """
    columns = overscan_adu[:, used[0] : used[1]].astype(np.float64)
    middle = np.median(columns, axis=1, keepdims=True)
    spread = MAD_TO_SIGMA * np.median(np.abs(columns - middle)) + 1e-9
    return np.clip(columns, middle - 5 * spread, middle + 5 * spread).mean(axis=1)


def to_electrons(pixels_adu: np.ndarray, bias_adu: np.ndarray, frame: Frame) -> np.ndarray:
    """Subtract bias, linearise and convert to electrons; saturated pixels and dropped rows become NaN.

    Parameters
    ----------
    pixels_adu : ndarray, shape (n, x)
    bias_adu : ndarray, shape (n,)
    frame : Frame
        Gives gain, saturation and the profile.

    Returns
    -------
    ndarray of float32, shape (n, x)

    Notes
    -----
    Non-linearity: ``true = x / (a x² + b x + 1)`` with the profile's ``a`` and ``b`` (ztfimg, raw.py). A row of one
    value without light was never read, since noise would make its columns differ.
    """
    electrons = np.empty(pixels_adu.shape, dtype=np.float32)
    a, b = frame.profile.nonlinearity or (0.0, 0.0)
    _to_electrons(
        pixels_adu, bias_adu.astype(np.float32), np.float32(a), np.float32(b),
        np.float32(frame.readout.gain_e_per_adu), frame.readout.saturation_adu, electrons,
    )  # fmt: skip
    electrons[dropped_rows(pixels_adu, bias_adu)] = np.nan
    return electrons


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _to_electrons(pixels, bias, a, b, gain, saturation, electrons):  # pragma: no cover - compiled
    """Twin of `to_electrons` without dropped rows."""
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            adu = np.float32(pixels[row, column]) - bias[row]
            linear = adu / ((a * adu + b) * adu + np.float32(1)) * gain
            electrons[row, column] = np.float32(np.nan) if pixels[row, column] >= saturation else linear


def undo_serial_trap(electrons: np.ndarray, serial_trap: SerialTrap | None, steady: slice) -> None:
    """Put the charge of each pixel back where it fell, in place.

    Parameters
    ----------
    electrons : ndarray of float32, shape (n, x)
    serial_trap : SerialTrap or None
        With None nothing is done.
    steady : slice
        Rows of ``electrons`` with the whole sky, corrected pixel by pixel. Other rows may have less light than read
        noise, which the correction would amplify. Their correction is that of the mean of every `DIM_ROWS` rows.
    """
    if serial_trap is None:
        return
    remove_serial_trap(electrons[steady], serial_trap)
    for start, stop in ((0, steady.start), (steady.stop, len(electrons))):
        for first in range(start, stop, DIM_ROWS):
            rows = electrons[first : min(first + DIM_ROWS, stop)]
            known = np.isfinite(rows)
            mean = np.where(known, rows, 0).sum(axis=0, keepdims=True) / np.maximum(known.sum(axis=0), 1)
            whole = mean.astype(np.float32)
            remove_serial_trap(whole, serial_trap)
            rows += whole - mean


def dropped_rows(pixels_adu: np.ndarray, bias_adu: np.ndarray) -> np.ndarray:
    """Rows (t,) that were never read: all columns have one value, without light."""
    dropped = np.all(pixels_adu[:, :_FIRST_LOOK] == pixels_adu[:, :1], axis=1) & (pixels_adu[:, 0] <= bias_adu)
    dropped[dropped] = np.all(pixels_adu[dropped] == pixels_adu[dropped, :1], axis=1)
    return dropped


def masked_rows(electrons: np.ndarray) -> np.ndarray:
    """Rows (t,) of (t, x) in which every pixel is NaN."""
    masked = np.isnan(electrons[:, :_FIRST_LOOK]).all(axis=1)
    masked[masked] = np.isnan(electrons[masked]).all(axis=1)
    return masked
