"""An amplifier in memory whose sky and noise are the same in every pixel, with the residuals that a test wants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.streaks.find import STREAK_COLUMNS
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.reading.readout import Readout


def flat_amplifier(
    residual: np.ndarray,
    *,
    sky_e: float,
    sigma_e: float,
    sigma_px: float,
    streak_x: Sequence[float] = (),
    first_id: int = 0,
) -> Amplifier:
    """Amplifier of residuals (x, t) in units of ``sigma_e``, its streaks at ``streak_x`` numbered from ``first_id``."""
    n_columns, n_rows = residual.shape
    blocks = np.ones((1, n_columns, -(-n_rows // BLOCK_ROWS)), dtype=np.float32)
    streaks = pd.DataFrame({name: pd.Series(dtype="float64") for name in STREAK_COLUMNS})
    streaks["x"] = np.asarray(streak_x, dtype=np.float64)
    streaks["y"] = 0.0
    streaks["streak_id"] = first_id + np.arange(len(streak_x))
    return Amplifier(
        residual=np.clip(residual, -6e4, 6e4).astype(np.float16)[None],
        baseline_e=np.float32(sky_e) * blocks,
        sigma_e=np.float32(sigma_e) * blocks,
        row_residual=np.zeros(n_rows, dtype=np.float32),
        streaks=streaks,
        readout=Readout(300.0, 6.2, 10.0, 48_000.0, 3080),
        file="memory.fits",
        entry="memory",
        psf_sigma_px=sigma_px,
        live_pixel_rows=int(np.isfinite(residual).sum()),
        sky_e=sky_e,
        sky_sigma_e=sigma_e,
    )
