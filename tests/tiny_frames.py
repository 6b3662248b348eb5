"""Frames of the small camera of `conftest.TINY_PROFILE` with Gaussian pulses, made and written without the package."""

from __future__ import annotations

from math import erf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

N_COLUMNS, N_OVERSCAN = 64, 30
RATE_HZ, N_TRANSIT, OPENED = 300.0, 50, "2026-03-04T05:06:07"
SKY_E, READ_NOISE_E, GAIN, BIAS_ADU, PSF_SIGMA_PX = 300.0, 5.0, 2.0, 100.0, 0.85
NOISE_E = sqrt(SKY_E + READ_NOISE_E**2 + GAIN**2 / 12)  # of a pixel of sky


def column_shares(x: float, n_columns: int) -> np.ndarray:
    """Light of a Gaussian source on each of some columns."""
    edges = [0.5 * (1 + erf((edge - 0.5 - x) / (sqrt(2) * PSF_SIGMA_PX))) for edge in range(n_columns + 1)]
    return np.diff(edges)


def add_pulse(electrons: np.ndarray, row: int, x: float, sigma_rows: float, rho: float) -> None:
    """Add a Gaussian pulse of some S/N to expected electrons (rows, columns)."""
    light = column_shares(x, electrons.shape[1])
    rows = np.arange(row - round(5 * sigma_rows), row + round(5 * sigma_rows) + 1)
    curve = np.exp(-0.5 * ((rows - row) / sigma_rows) ** 2)
    electrons[rows] += rho * NOISE_E / sqrt((light**2).sum() * (curve**2).sum()) * np.outer(curve, light)


def expose(electrons: np.ndarray, seed: int) -> list[np.ndarray]:
    """Read out the sky, (rows, 128): pixels of both amplifiers and their overscan, in read order.

    The first amplifier has columns 0 to 63 from the left, the second the rest from the right: their last columns touch.
    """
    rng = np.random.default_rng(seed)
    noisy = rng.poisson(electrons) + rng.normal(0, READ_NOISE_E, electrons.shape)
    bias = rng.normal(0, READ_NOISE_E, (2, len(electrons), N_OVERSCAN))
    images = [noisy[:, :N_COLUMNS], noisy[:, : N_COLUMNS - 1 : -1], *bias]
    return [np.rint(image / GAIN + BIAS_ADU).astype(np.uint16) for image in images]


def write_tiny(path: Path, images: list[np.ndarray], first_row: int | None, **cards: Any) -> Path:
    """Write rows as the camera does: the second amplifier from its last row and column to its first."""
    one, two, *overscan = images
    raw = one, two[::-1, ::-1], overscan[0], overscan[1][::-1, ::-1]
    header = {"TINYCAM": True, "CHIP": 2, "CLOCK": RATE_HZ, "ROW0": first_row, "SEQ": "night", "TOPEN": OPENED}
    header |= {"BAND": "r", "ZP": 24.5, **cards}
    primary = fits.PrimaryHDU(header=fits.Header([card for card in header.items() if card[1] is not None]))
    hdus = [primary, *(fits.ImageHDU(np.ascontiguousarray(image)) for image in raw)]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def write_sequence(folder: Path, images: list[np.ndarray], first_row: int, n_files: int) -> list[Path]:
    """Files of equal length that follow each other, named by their first row of the sequence."""
    n_rows = len(images[0]) // n_files
    starts = range(0, n_files * n_rows, n_rows)
    return [
        write_tiny(folder / f"{first_row + k:06d}.fits", [image[k : k + n_rows] for image in images], first_row + k)
        for k in starts
    ]
