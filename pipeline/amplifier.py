"""Hold a calibrated amplifier: residuals, noise, stars and clocks of one amplifier of one file.

Every stage after calibration takes an `Amplifier`, opened from a store or built in memory. Continuous readout is a
stack of images with a height of one pixel (``y = 1``). Image cubes are higher and go through the same functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.compiled.blocks import BLOCK_ROWS, interpolate_blocks
from shutterless.pipeline.compiled.covariance import covariance_of_columns
from shutterless.pipeline.compiled.residual_lines import compiled_lines
from shutterless.pipeline.psf import psf_half_width, stack_profile
from shutterless.pipeline.reading.readout import Readout, RowTimes

Y_AXIS, TIME_AXIS = 0, 2  # of a residual (y, x, t)
ROW_TIMES = "row_times"  # array of an entry, (2, t): seconds and the archive's own times
_OPTIONAL = ("block_rows", "smear_rows", "pixel_rows_per_hour", "token_grid", "event_scales_s")


@dataclass(frozen=True)
class Amplifier:
    """One calibrated amplifier of one file.

    Parameters
    ----------
    residual : ndarray of float16, shape (y, x, t)
        Residual in units of σ, memory-mapped from a store; NaN where masked. ``y`` is 1 for continuous readout. An
        entry of the time axis is then a row of the detector; in image cubes it is an image.
    baseline_e, sigma_e : ndarray of float32, shape (y, x, b)
        Baseline and noise (electrons per pixel) at the centres of blocks of ``block_rows`` rows.
    row_residual : ndarray of float32, shape (t,)
        Offset that all columns of a row share, in units of the median σ; already subtracted from ``residual``.
    streaks : DataFrame
    readout : Readout
    file, entry : str
        Name of the FITS file, and of the folder in the store.
    psf_sigma_px : float
    live_pixel_rows : int
        Unmasked pixels.
    sky_e, sky_sigma_e : float
        Median baseline and noise of the whole amplifier (electrons per pixel).
    block_rows : int
    smear_rows : float, optional
        Width (σ) by which the point-spread function smears time, in rows; in continuous readout ``psf_sigma_px``.
    pixel_rows_per_hour : float, optional
        Pixels times rows of an amplifier-hour; in continuous readout those that are read in an hour.
    token_grid : mapping
        Sizes of the token grid; empty means that of the settings.
    event_scales_s : mapping of str to (float, float)
        Kinds of event to inject and the range of their scale; empty means those of continuous readout.
    """

    residual: np.ndarray
    baseline_e: np.ndarray
    sigma_e: np.ndarray
    row_residual: np.ndarray
    streaks: pd.DataFrame
    readout: Readout
    file: str
    entry: str
    psf_sigma_px: float
    live_pixel_rows: int
    sky_e: float
    sky_sigma_e: float
    block_rows: int = BLOCK_ROWS
    smear_rows: float = np.nan
    pixel_rows_per_hour: float = np.nan
    token_grid: Mapping[str, Any] = field(default_factory=dict)
    event_scales_s: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if np.isnan(self.smear_rows):
            object.__setattr__(self, "smear_rows", self.psf_sigma_px)
        if np.isnan(self.pixel_rows_per_hour):
            object.__setattr__(self, "pixel_rows_per_hour", self.readout.pixel_rows_per_hour(self.n_columns))

    @property
    def n_rows(self) -> int:
        """Rows (length of the time axis)."""
        return self.residual.shape[2]

    @property
    def n_columns(self) -> int:
        """Columns."""
        return self.residual.shape[1]

    @property
    def n_y(self) -> int:
        """Height of the stack in pixels, 1 for continuous readout."""
        return self.residual.shape[0]

    @cached_property
    def star_places(self) -> np.ndarray:
        """Positions (y, x) of the stars in the order of ``streaks``, float64, shape (s, 2)."""
        return self.streaks[["y", "x"]].to_numpy(dtype=np.float64)

    @property
    def detector_axis(self) -> int:
        """Axis of the residual that is the row axis of the detector: time in continuous readout, else y."""
        return Y_AXIS if self.n_y > 1 else TIME_AXIS

    @cached_property
    def live_hours(self) -> float:
        """Amplifier-hours of unmasked pixels."""
        return self.live_pixel_rows / self.pixel_rows_per_hour

    @cached_property
    def column_covariance(self) -> np.ndarray | None:
        """Covariance of each column of continuous readout with its neighbours, (x, k, k); None for images.

        It holds what is left of image motion, changes of focus and blends, `covariance_of_columns` over one column more
        than the point-spread function reaches. It is the identity where columns are white, as all are in still air.
        """
        if self.n_y > 1:
            return None
        return covariance_of_columns(compiled_lines(self.residual), psf_half_width(self.psf_sigma_px) + 1)

    def sigma_rows(self, y: slice, columns: slice, start: int, stop: int) -> np.ndarray:
        """Noise of some pixels in rows ``start..stop`` (electrons), shape (y, x, t)."""
        return self._expand(self.sigma_e[y, columns], start, stop)

    def level_rows(self, y: slice, columns: slice, start: int, stop: int) -> np.ndarray:
        """Baseline of some pixels in rows ``start..stop`` (electrons), shape (y, x, t)."""
        return self._expand(self.baseline_e[y, columns], start, stop)

    def block_of(self, row: Any) -> Any:
        """Block of ``baseline_e`` and ``sigma_e`` in which a row lies; the first or last for rows beyond the ends."""
        return np.clip(np.asarray(row) // self.block_rows, 0, self.sigma_e.shape[2] - 1)

    def profile(self, y_offsets_px: Any, x_offsets_px: Any) -> np.ndarray:
        """Fraction of a source's light on pixels at these distances from it, shape (y, x)."""
        return stack_profile(y_offsets_px, x_offsets_px, self.psf_sigma_px, self.n_y)

    def between(self, start: int, stop: int) -> Amplifier:
        """Rows ``start`` to ``stop`` as an amplifier of its own, ``start`` rounded down to the beginning of a block."""
        start -= start % self.block_rows
        blocks = slice(start // self.block_rows, -(-stop // self.block_rows))
        residual = self.residual[:, :, start:stop]
        return replace(
            self,
            residual=residual,
            baseline_e=self.baseline_e[:, :, blocks],
            sigma_e=self.sigma_e[:, :, blocks],
            row_residual=self.row_residual[start:stop],
            readout=self.readout.from_row(start, stop),
            live_pixel_rows=int(np.count_nonzero(np.isfinite(residual))),
        )

    def _expand(self, blocks: np.ndarray, start: int, stop: int) -> np.ndarray:
        by_block = blocks.reshape(-1, blocks.shape[-1]).T
        return interpolate_blocks(by_block, start, stop, self.block_rows).T.reshape(*blocks.shape[:2], stop - start)


def build_amplifier(
    name: str,
    description: Mapping[str, Any],
    residual: np.ndarray,
    arrays: Mapping[str, np.ndarray],
    streaks: pd.DataFrame,
) -> Amplifier:
    """Build an amplifier from the contents of a store entry, whether read from disk or in memory."""
    times = RowTimes(*arrays[ROW_TIMES]) if ROW_TIMES in arrays else None
    return Amplifier(
        residual=residual,
        baseline_e=arrays["baseline_e"],
        sigma_e=arrays["sigma_e"],
        row_residual=arrays["row_residual"],
        streaks=streaks,
        readout=replace(Readout.from_dict(description["readout"]), row_times=times),
        file=description["file"],
        entry=name,
        psf_sigma_px=description["psf_sigma_px"],
        live_pixel_rows=description["live_pixel_rows"],
        sky_e=float(np.nanmedian(arrays["baseline_e"])),
        sky_sigma_e=float(np.nanmedian(arrays["sigma_e"])),
        **{name: description[name] for name in _OPTIONAL if name in description},
    )
