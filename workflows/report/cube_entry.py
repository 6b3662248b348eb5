"""Read one image cube of a store and sum its light; format its times and durations."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.cubes.cosmic_rays import COLUMNS
from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA
from shutterless.pipeline.plots.cubes import duration_unit
from shutterless.pipeline.store.store import open_amplifier
from shutterless.workflows.pages.formats import number

_ARRAYS = ("quality", "pixel_noise", "aperture", "motion_px")


class CubeEntry:
    """One image cube of a store, and its light.

    Parameters
    ----------
    folder : Path
        Of the entry.

    Raises
    ------
    StoreError
        If the entry is absent or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.amplifier: Amplifier = open_amplifier(self.folder.parent, self.folder.name)
        self.quality, noise, self.aperture, self.motion_px = (_load(self.folder / f"{name}.npy") for name in _ARRAYS)
        self.noise = np.full(self.shape, np.nan) if noise is None else noise
        rays = _load(self.folder / "cosmic_rays.npy")
        self.cosmic_rays = pd.DataFrame(np.zeros((0, len(COLUMNS))) if rays is None else rays, columns=list(COLUMNS))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width (pixels)."""
        return self.amplifier.n_y, self.amplifier.n_columns

    @cached_property
    def time(self) -> np.ndarray:
        """The archive's time of each cadence, shape (t,)."""
        return self.amplifier.readout.archive_time(np.arange(self.amplifier.n_rows))

    @cached_property
    def total_e(self) -> np.ndarray:
        """Summed light of all pixels (electrons per cadence), as `sum_light`."""
        return sum_light(self.amplifier, np.ones(self.shape, dtype=bool))

    @cached_property
    def image_e(self) -> np.ndarray:
        """Median light of each pixel (electrons per cadence), shape (y, x); NaN where it is always masked."""
        return np.stack([median_light(read_light(self.amplifier, slice(y, y + 1))[0]) for y in range(self.shape[0])])


def _load(path: Path) -> np.ndarray | None:
    return np.load(path) if path.is_file() else None


def read_light(
    amplifier: Amplifier, y: slice = slice(None), columns: slice = slice(None), rows: slice = slice(None)
) -> np.ndarray:
    """Light of some pixels (electrons per cadence), float32 of shape (y, x, t); NaN where masked."""
    start, stop, _ = rows.indices(amplifier.n_rows)
    level, sigma = (part(y, columns, start, stop) for part in (amplifier.level_rows, amplifier.sigma_rows))
    return level + sigma * np.asarray(amplifier.residual[y, columns, start:stop], dtype=np.float32)


def sum_light(amplifier: Amplifier, wanted: np.ndarray) -> np.ndarray:
    """Sum of the light of some pixels (electrons per cadence), float64 of shape (t,).

    Parameters
    ----------
    amplifier : Amplifier
    wanted : ndarray of bool, shape (y, x)
        Pixels that are always masked do not count.

    Notes
    -----
    A pixel that is masked in a cadence counts with its baseline, so that the sum does not fall. If half of the pixels
    or more are masked, the sum is NaN.
    """
    total, n_live, n_pixels = np.zeros(amplifier.n_rows), np.zeros(amplifier.n_rows, dtype=int), 0
    for y in np.flatnonzero(wanted.any(axis=1)):
        residual = np.asarray(amplifier.residual[y], dtype=np.float32)
        live = np.isfinite(residual)
        used = wanted[y] & live.any(axis=1)
        row = slice(y, y + 1), slice(None), 0, amplifier.n_rows
        light = amplifier.level_rows(*row)[0] + amplifier.sigma_rows(*row)[0] * np.where(live, residual, 0)
        total += light[used].sum(axis=0, dtype=np.float64)
        n_live += live[used].sum(axis=0)
        n_pixels += int(used.sum())
    return np.where(2 * n_live > n_pixels, total, np.nan)


def median_light(light: np.ndarray) -> np.ndarray:
    """Median over the last axis; NaN where no value is live."""
    live = np.isfinite(light).any(axis=-1)
    return np.where(live, np.nanmedian(np.where(live[..., None], light, 0), axis=-1), np.nan)


def relative_light(total_e: np.ndarray) -> tuple[np.ndarray, str]:
    """Change of a light curve in per cent of its median, and its name.

    If the median is small against the scatter, as in differences of images, the change is in electrons instead.
    """
    middle = float(median_light(total_e))
    scatter = MAD_TO_SIGMA * float(median_light(np.abs(total_e - middle)))
    if not middle > scatter:
        return total_e - middle, "Light − median (e⁻ per cadence)"
    return 100 * (total_e / middle - 1), "Light − median (% of median)"


def duration_text(seconds: float) -> str:
    """Return a segment of time in the unit in which it is readable, ``"2.45 h"``."""
    if pd.isna(seconds):
        return "–"
    unit, unit_s = duration_unit(seconds)
    return f"{number(seconds / unit_s, '{:.3g}')} {unit}"


def time_label(time_scale: str) -> str:
    """Label of an axis of the archive's time, with its scale and unit."""
    if not time_scale:
        return "Archive's time"
    scale = scale_text(time_scale)
    return f"Time ({scale})" if scale.startswith(("seconds", "days")) else f"Time ({scale}; days)"


def scale_text(time_scale: str) -> str:
    """Name of the archive's time without the zeros of a whole second."""
    return time_scale.replace(" - ", " − ").replace(".000000", "")


def archive_text(time: float, amplifier: Amplifier) -> str:
    """Write a time of the archive to a thousandth of a cadence."""
    archive = amplifier.readout.archive_time(np.array([0, amplifier.n_rows - 1]))
    step = (archive[1] - archive[0]) / max(amplifier.n_rows - 1, 1)
    decimals = int(np.clip(3 - np.floor(np.log10(step)), 0, 9)) if step > 0 else 6
    return number(time, f"{{:.{decimals}f}}")
