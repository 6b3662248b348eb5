"""Threshold of a perfect-match bank on clean noise against false alarms per amplifier-hour.

    python benchmarks/optimum.py --hours 1

Every detector is measured against it: `OPTIMUM_THRESHOLDS` in models/evaluation/metrics.py is the output. The noise is
that of sky at r = 20.8 (Poisson, read noise, digitisation) with a known baseline, without artefacts and stars. All
widths and shapes of the bank and both signs are used, without vetoes.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import RateCurve, cluster_detections, poisson_interval
from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.streaks.find import STREAK_COLUMNS
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.reading.readout import Readout

SKY_E, READ_NOISE_E, GAIN, ROW_RATE_HZ, PSF_SIGMA_PX = 314.0, 10.0, 6.2, 300.0, 0.84


def clean_amplifier(rng: np.random.Generator, n_rows: int, n_columns: int = 3072) -> Amplifier:
    """Return an amplifier of pure noise, in units of its exact σ."""
    noise = rng.poisson(SKY_E, (n_columns, n_rows)).astype(np.float32)
    noise += rng.normal(0, READ_NOISE_E, noise.shape).astype(np.float32)
    noise = np.round(noise / GAIN + rng.random(dtype=np.float32)) * np.float32(GAIN)
    noise -= noise.mean()
    sigma = np.sqrt(SKY_E + READ_NOISE_E**2 + GAIN**2 / 12)
    blocks = np.full((1, n_columns, -(-n_rows // BLOCK_ROWS)), 1.0, dtype=np.float32)
    return Amplifier(
        residual=(noise / sigma).astype(np.float16)[None],
        baseline_e=blocks * SKY_E,
        sigma_e=blocks * sigma,
        row_residual=np.zeros(n_rows, dtype=np.float32),
        streaks=pd.DataFrame({name: pd.Series(dtype="float64") for name in STREAK_COLUMNS}),
        readout=Readout(ROW_RATE_HZ, GAIN, READ_NOISE_E, 48_000.0, 3080),
        file="noise",
        entry="noise",
        psf_sigma_px=PSF_SIGMA_PX,
        live_pixel_rows=noise.size,
        sky_e=SKY_E,
        sky_sigma_e=sigma,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0, help="amplifier-hours of noise")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    scores, hours, started = [], 0.0, time.perf_counter()
    while hours < arguments.hours:
        amplifier = clean_amplifier(rng, 16_384)
        triggers = find_triggers(amplifier).assign(entry="noise")
        scores.append(triggers["snr"].abs().groupby(cluster_detections(triggers)).max().to_numpy())
        hours += amplifier.live_hours
    curve = RateCurve(np.sort(np.concatenate(scores))[::-1], hours)
    print(f"{hours:.2f} amplifier-hours, {len(curve.scores)} triggers, {time.perf_counter() - started:.0f} s")
    for rate in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        threshold, extrapolated = curve.threshold(rate)
        low, high = (count / hours for count in poisson_interval(max(int(rate * hours), 1)))
        print(f"{rate:5d} per hour ({low:.1f} to {high:.1f}): {threshold:.2f}{' extrapolated' if extrapolated else ''}")


if __name__ == "__main__":
    main()
