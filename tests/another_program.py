"""Continuous-readout frames as another program would write them: nothing of shutterless is used to make them.

Geometry and keywords follow the published description of the format; see "Frames" in README.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, sqrt
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

N_COLUMNS, N_OVERSCAN, N_TRANSIT, RATE_HZ = 3072, 30, 3080, 300.0
GAIN, READ_NOISE_E, SKY_E, PSF_SIGMA = 6.2, 10.0, 314.0, 0.84
SHUTTER_OPEN = "2026-03-04T05:06:07.000"
# (flip columns, flip rows) from read order to raw orientation
RAW_FLIPS = {1: (False, False), 2: (True, False), 3: (True, True), 4: (False, True)}


@dataclass(frozen=True)
class Pulse:
    """A Gaussian rise and fall at a file row and read-order column; amplitude in electrons per row, all columns."""

    quadrant: int
    x: float
    row: float
    fwhm_rows: float
    amplitude_e: float


@dataclass(frozen=True)
class Star:
    quadrant: int
    x: float
    y0: int
    flux_e_row: float


def share(offset: float, sigma: float = PSF_SIGMA) -> float:
    """Light on a pixel at a distance from a Gaussian source."""
    return 0.5 * (erf((offset + 0.5) / (sqrt(2) * sigma)) - erf((offset - 0.5) / (sqrt(2) * sigma)))


def column_shares(x: float) -> tuple[np.ndarray, np.ndarray]:
    columns = np.arange(max(int(x) - 6, 0), min(int(x) + 8, N_COLUMNS))
    return columns, np.array([share(column - x) for column in columns])


def mean_frame(quadrant: int, first_row: int | None, n_rows: int, stars: list[Star], pulses: list[Pulse]) -> np.ndarray:
    """Expected electrons in read order, (rows, columns)."""
    k = np.arange(n_rows) + (first_row if first_row is not None else 10 * N_TRANSIT)
    expected = np.repeat((SKY_E * np.minimum((k + 1) / N_TRANSIT, 1.0))[:, None], N_COLUMNS, axis=1)
    for star in stars:
        if star.quadrant == quadrant:
            columns, light = column_shares(star.x)
            begun = np.array([0.5 * (1 + erf((row - star.y0) / (sqrt(2) * PSF_SIGMA))) for row in k])
            expected[:, columns] += star.flux_e_row * begun[:, None] * light
    for pulse in pulses:
        if pulse.quadrant == quadrant:
            columns, light = column_shares(pulse.x)
            width = np.hypot(pulse.fwhm_rows / 2.3548, PSF_SIGMA)
            curve = np.exp(-0.5 * ((np.arange(n_rows) - pulse.row) / width) ** 2)
            expected[:, columns] += pulse.amplitude_e * curve[:, None] * light
    return expected


def pointed_at(ra_deg: float, dec_deg: float, turned_deg: float, quadrant: int) -> WCS:
    """WCS of a quadrant, raw orientation, 1.012 arcsec per pixel; the position is in the middle of the CCD."""
    wcs, angle, scale = WCS(naxis=2), np.radians(turned_deg), 1.012 / 3600
    columns, rows = RAW_FLIPS[quadrant]
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [ra_deg, dec_deg]
    wcs.wcs.crpix = [0.5 if columns else N_COLUMNS + 0.5, 0.5 if rows else N_TRANSIT + 0.5]
    wcs.wcs.cd = scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.set()
    return wcs


def sky_of(wcs: WCS, quadrant: int, x: np.ndarray, y0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination (degrees) of columns and rows in read order."""
    columns, rows = RAW_FLIPS[quadrant]
    return wcs.all_pix2world(N_COLUMNS - 1 - x if columns else x, N_TRANSIT - 1 - y0 if rows else y0, 0)


def pixel_of(wcs: WCS, quadrant: int, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows in read order of positions (degrees); the inverse of `sky_of`."""
    columns, rows = RAW_FLIPS[quadrant]
    x, y = wcs.all_world2pix(ra, dec, 0)
    return N_COLUMNS - 1 - x if columns else x, N_TRANSIT - 1 - y if rows else y


def write_frame(
    path: Path,
    *,
    first_row: int | None,
    n_rows: int,
    stars: list[Star],
    pulses: list[Pulse],
    seed: int = 1,
    ccd: int = 7,
    sequence: str = "OTHER",
    pointing: tuple[float, float, float] | None = None,
) -> Path:
    """Write one CCD: noise, gain, bias, deferred charge, raw orientation."""
    rng = np.random.default_rng(seed)
    primary = fits.PrimaryHDU()
    values = {"CCD_ID": ccd, "ROWRATE": RATE_HZ, "SHUTOPEN": SHUTTER_OPEN, "SEQID": sequence, "NTRANSIT": N_TRANSIT}
    values |= {"FILTER": "ZTF_r", "MAGZP1S": 24.5, "PIXSCALE": 1.012, "SEEING": 2.0}
    if first_row is not None:
        values["SEQROW0"] = first_row
    primary.header.update(values)
    data, overscan = [], []
    kind = fits.CompImageHDU if path.name.endswith(".fz") else fits.ImageHDU
    for quadrant, (columns, rows) in RAW_FLIPS.items():
        expected = mean_frame(quadrant, first_row, n_rows, stars, pulses)
        pickup = rng.normal(0, 4.0, (n_rows, 1))
        electrons = rng.poisson(expected) + rng.normal(0, READ_NOISE_E, expected.shape) + pickup
        bias = rng.normal(0, READ_NOISE_E, (n_rows, N_OVERSCAN)) + pickup
        deferred = 800 * np.exp(-np.arange(N_OVERSCAN) / 3.0)
        for target, values_e in ((data, electrons), (overscan, bias + deferred)):
            adu = np.clip(np.round(values_e / GAIN + 112), 0, 65535).astype(np.uint16)
            raw = adu[:: -1 if rows else 1, :: -1 if columns else 1]
            header = fits.Header({"AMP_ID": quadrant, "GAIN": GAIN, "READNOI": READ_NOISE_E, "SATURATE": 58000.0})
            if pointing is not None and target is data:
                header.update(pointed_at(*pointing, quadrant).to_header())
            target.append(kind(np.ascontiguousarray(raw), header=header))
    fits.HDUList([primary, *data, *overscan]).writeto(path)
    return path
