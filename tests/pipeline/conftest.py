"""Small frames and amplifiers in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.frames import Frame
from shutterless.pipeline.reading.instruments import load_profile
from shutterless.pipeline.reading.readout import Readout

SKY_E, READ_NOISE_E, SKY_SIGMA_E, PSF_SIGMA_PX = 300.0, 10.0, 20.0, 0.84  # 300 + 10² = 20²
STARS = ((20.25, 1000.0), (44.0, 300.0))  # x, electrons per row


def streak_table(stars: tuple[tuple[float, float], ...], row_rate_hz: float = 300.0) -> pd.DataFrame:
    """Streaks at (x, electrons per row), numbered from 0, none with a known ``y0``."""
    x, flux = np.asarray(stars, dtype=np.float64).reshape(-1, 2).T
    return pd.DataFrame(
        {
            "streak_id": np.arange(x.size, dtype=np.int64),
            "x": x,
            "y": np.zeros(x.size),
            "flux_e_row": flux,
            "flux_error_e_row": np.ones(x.size),
            "flux_e_s": flux * row_rate_hz,
            "mag": 24.49 - 2.5 * np.log10(flux * row_rate_hz),
            "y0": np.full(x.size, np.nan),
        }
    )


@pytest.fixture(scope="session")
def make_frame() -> Callable[..., Frame]:
    """Steady frame in memory, gain 2, bias 100 ADU: ``make_frame(pixels, profile, overscan, **readout)``."""

    def make(pixels_adu: Any, profile: str, overscan_adu: Any = None, **readout: Any) -> Frame:
        pixels_adu = np.asarray(pixels_adu)
        overscan_adu = np.full((len(pixels_adu), 30), 100) if overscan_adu is None else overscan_adu
        clocks = replace(Readout(300.0, 2.0, 5.0, 40_000.0, 50), **readout)
        return Frame(pixels_adu, overscan_adu, clocks, load_profile(profile), Path("memory.fits"))

    return make


@pytest.fixture(scope="session")
def make_amplifier() -> Callable[..., Amplifier]:
    """Build an amplifier: ``make_amplifier(n_columns=64, n_rows=4096, seed=0, noise=1.0, stars=STARS, **readout)``."""

    def make(
        n_columns: int = 64,
        n_rows: int = 4096,
        seed: int = 0,
        noise: float = 1.0,
        stars: tuple[tuple[float, float], ...] = STARS,
        **readout: Any,
    ) -> Amplifier:
        residual = noise * np.random.default_rng(seed).standard_normal((1, n_columns, n_rows))
        light = np.zeros(n_columns)
        for x, flux in stars:
            light += flux * pixel_profile(np.arange(n_columns) - x, PSF_SIGMA_PX)
        blocks = np.ones((1, n_columns, -(-n_rows // BLOCK_ROWS)), dtype=np.float32)
        baseline_e = blocks * (SKY_E + light[:, None]).astype(np.float32)
        return Amplifier(
            residual=residual.astype(np.float16),
            baseline_e=baseline_e,
            sigma_e=np.sqrt(baseline_e + np.float32(READ_NOISE_E**2)),
            row_residual=np.zeros(n_rows, dtype=np.float32),
            streaks=streak_table(stars),
            readout=Readout(300.0, 6.2, READ_NOISE_E, 48_000.0, 3080, **readout),
            file="small.fits",
            entry="small_c00_q0",
            psf_sigma_px=PSF_SIGMA_PX,
            live_pixel_rows=residual.size,
            sky_e=SKY_E,
            sky_sigma_e=SKY_SIGMA_E,
        )

    return make
