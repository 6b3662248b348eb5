"""Read the quality of amplifiers from their store; small enough for thousands at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shutterless.pipeline.calibration.quality import expected_tails
from shutterless.pipeline.calibration.streaks.background import sky_level
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.store.store import StoreError, open_amplifier, read_entry
from shutterless.pipeline.stored_files import read_array

SKY_SHARE = 0.02  # relative difference from the sky's level up to which a column is taken for sky
_LEVEL_STEPS = 16  # of a sky that rises or falls; tails are interpolated between them


@dataclass(frozen=True)
class AmplifierQuality:
    """Quality of an amplifier as its ingest recorded it.

    Parameters
    ----------
    entry : str
        Folder in the store.
    numbers : mapping
        Description of the entry; entries of older versions have fewer keys.
    readout : Readout
    n_rows, n_columns : int
    level_e : ndarray of float64, shape (x,)
        Mean baseline of each column (electrons per pixel).
    sky : ndarray of bool, shape (x,)
        Columns without a star or a ghost that are not masked from end to end.
    expected_tails : ndarray of float64, shape (2,)
        Pixels of the sky columns that photon and electronic noise puts below -`TAIL_SIGMA` and above `TAIL_SIGMA`.
    column_noise : ndarray of float32, shape (x,), or None
        Noise over theory; NaN where a column is masked from end to end. None in an entry of an older version.
    column_tails : ndarray of int32, shape (x, 2), or None
        Isolated pixels below -`TAIL_SIGMA` and above `TAIL_SIGMA`.
    row_offset_e : ndarray of float32, shape (t,), or None
        Offset that all columns of a row share (electrons).
    """

    entry: str
    numbers: Mapping[str, Any]
    readout: Readout
    n_rows: int
    n_columns: int
    level_e: np.ndarray
    sky: np.ndarray
    expected_tails: np.ndarray
    column_noise: np.ndarray | None
    column_tails: np.ndarray | None
    row_offset_e: np.ndarray | None

    @property
    def live_hours(self) -> float:
        """Amplifier-hours of unmasked pixels."""
        per_hour = self.numbers.get("pixel_rows_per_hour", self.readout.pixel_rows_per_hour(self.n_columns))
        return self.numbers["live_pixel_rows"] / per_hour

    @property
    def sky_noise(self) -> float:
        """Noise over theory of the sky columns' pixels within `TAIL_SIGMA`; NaN if unknown."""
        if self.column_noise is None or not self.sky.any():
            return np.nan
        return float(np.sqrt(np.mean(self.column_noise[self.sky].astype(np.float64) ** 2)))

    @property
    def sky_tails(self) -> np.ndarray:
        """Isolated pixels of the sky columns below and above `TAIL_SIGMA`, shape (2,); NaN if unknown."""
        if self.column_tails is None or not self.sky.any():
            return np.full(2, np.nan)
        return self.column_tails[self.sky].sum(axis=0).astype(np.float64)


def read_quality(store: str | Path, entry: str) -> AmplifierQuality:
    """Read the quality that the ingest of an amplifier recorded.

    Raises
    ------
    StoreError
        If the entry is absent, of another version, or one of its arrays has another shape than its pixels need.
    """
    amplifier = open_amplifier(store, entry)
    n_columns, n_rows = amplifier.n_columns, amplifier.n_rows
    shapes = {
        "column_noise": ("f", (n_columns,)),
        "column_tails": ("iu", (n_columns, 2)),
        "row_offset_e": ("f", (n_rows,)),
    }
    noise, tails, offset_e = (_load(Path(store) / entry / f"{name}.npy", *form) for name, form in shapes.items())
    numbers = read_entry(Path(store), entry) or {}
    level_e, sigma_e = amplifier.baseline_e[0], amplifier.sigma_e[0]
    mean_e = level_e.mean(axis=1, dtype=np.float64)
    live = np.isfinite(mean_e if noise is None else noise)
    sky = live & _sky_columns(mean_e, float(np.median(sigma_e)) / np.sqrt(amplifier.n_rows))
    n_pixels = numbers["live_pixel_rows"] * sky.sum() / max(live.sum(), 1)
    return AmplifierQuality(
        entry,
        numbers,
        amplifier.readout,
        n_rows,
        n_columns,
        level_e=mean_e,
        sky=sky,
        expected_tails=n_pixels * _tail_shares(level_e[sky], sigma_e[sky]),
        column_noise=noise,
        column_tails=tails,
        row_offset_e=offset_e,
    )


def _load(path: Path, kinds: str, shape: tuple[int, ...]) -> np.ndarray | None:
    if not path.is_file():
        return None
    array = read_array(path, kinds, len(shape))
    if array.shape != shape:
        raise StoreError(f"{path} has shape {array.shape}, its amplifier needs {shape}; ingest the entry again")
    return array


def _sky_columns(level_e: np.ndarray, error_e: float) -> np.ndarray:
    """Columns whose level equals the sky's within `SKY_SHARE` or three errors."""
    middle = sky_level(level_e)
    return np.abs(level_e - middle) < max(SKY_SHARE * abs(middle), 3 * error_e)


def _tail_shares(level_e: np.ndarray, sigma_e: np.ndarray) -> np.ndarray:
    """Shares of the pixels of sky columns (x, b) that noise puts below and above `TAIL_SIGMA`, averaged over levels."""
    if level_e.size == 0:
        return np.full(2, np.nan)
    light = np.maximum(level_e.astype(np.float64), 0)
    electronic_e = np.sqrt(np.median(sigma_e.astype(np.float64) ** 2 - light))
    level = np.median(light, axis=0)
    steps = np.linspace(level.min(), level.max(), 2 if np.ptp(level) < SKY_SHARE * level.max() else _LEVEL_STEPS)
    shares = np.array([expected_tails(step, electronic_e) for step in steps])
    return np.array([np.interp(level, steps, column).mean() for column in shares.T])
