"""Measure the S/N that events lose to the running level of the baseline, against their duration.

    python benchmarks/baseline.py --figure docs/figures/baseline_loss.png

Columns of sky and of an r = 12 star have 16,384 rows of Poisson and read noise. Top-hats and flares of optimal S/N 10
and 50 are added at random rows. The loss is the rise of the level caused by the event, as a share of ``Σ s d / √Σ s²``,
in the same noise. Durations of flares are their FWHM; their tails are fifteen times as long.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from shutterless.pipeline.calibration.levels.baseline import (
    BASELINE_CLIP_SIGMA,
    baseline_blocks,
    block_means,
    reject_outliers,
    running_level,
)
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS, interpolate_blocks
from shutterless.pipeline.events.light_curves import event_light_curve
from shutterless.pipeline.plots.frames import BLUE, GREY, VERMILLION
from shutterless.pipeline.reading.readout import Readout

ROW_RATE_HZ, READ_NOISE_E, SIGMA_ROWS = 300.0, 10.0, 0.84
WINDOW = baseline_blocks(Readout(ROW_RATE_HZ, 6.2, READ_NOISE_E, 48_000.0, 3080))
LEVELS_E = {"sky": 314.0, "r = 12": 314.0 + 150.0}
DURATIONS_S = (0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
SHAPES = {"top-hat": ("burst", {"profile": "tophat"}), "flare": ("flare", {})}


def level(electrons: np.ndarray) -> np.ndarray:
    """Level of every row (t, x) as in the calibration."""
    means = block_means(electrons, BLOCK_ROWS, READ_NOISE_E, BASELINE_CLIP_SIGMA)
    knots = running_level(reject_outliers(means, WINDOW), WINDOW)
    return interpolate_blocks(knots, 0, len(electrons))


def losses(
    rng: np.random.Generator, n_rows: int, shape: str, duration_s: float, rho: float, sky_e: float, n: int
) -> np.ndarray:
    """Share of the S/N lost by ``n`` events inside the file, each in its own column, shape (n,)."""
    kind, arguments = SHAPES[shape]
    rows = duration_s * ROW_RATE_HZ
    before, after = (0.5 * rows, 0.5 * rows) if shape == "top-hat" else (rows, 6 * rows)
    quiet = rng.poisson(sky_e, (n_rows, n)) + rng.normal(0, READ_NOISE_E, (n_rows, n))
    quiet = quiet.astype(np.float32)
    peaks = rng.uniform(before, n_rows - after, n)
    curves = np.stack([event_light_curve(kind, n_rows, peak, rows, SIGMA_ROWS, **arguments) for peak in peaks], axis=1)
    sigma = np.sqrt(sky_e + READ_NOISE_E**2)
    curves *= rho * sigma / np.linalg.norm(curves, axis=0)
    taken = level(quiet + curves.astype(np.float32)) - level(quiet)
    return np.sum(taken * curves, axis=0) / np.sum(curves**2, axis=0)


def draw_figure(table: pd.DataFrame, path: Path) -> None:
    """Draw loss against duration, with the two upper limits."""
    figure, ax = plt.subplots(figsize=(7, 4.5), dpi=100, layout="constrained")
    for (shape, rho), part in table[table["column"] == "sky"].groupby(["shape", "rho"]):
        style = {"color": BLUE if shape == "top-hat" else VERMILLION, "ls": "-" if rho == 10 else "--"}
        ax.plot(part["duration_s"], 100 * part["mean"], marker="o", ms=4, label=f"{shape}, ρ = {rho}", **style)
    ax.plot([0.03, 1.0], [5, 5], color=GREY, lw=1)
    ax.plot(5.0, 20, marker="_", ms=14, color=GREY)
    ax.annotate("at most 5 % up to 1 s, 20 % at 5 s", (0.032, 5.6), color=GREY)
    ax.set(
        xscale="log",
        xlabel="Duration of a top-hat, FWHM of a flare (s)",
        ylabel="Share of ρ lost to the baseline (%)",
    )
    ax.set_ylim(0, 60)
    ax.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--events", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    rows = []
    for shape, duration_s in itertools.product(SHAPES, DURATIONS_S):
        if duration_s * ROW_RATE_HZ * (1 if shape == "top-hat" else 7) > arguments.rows:
            continue
        for (column, sky_e), rho in itertools.product(LEVELS_E.items(), (10, 50)):
            found = losses(rng, arguments.rows, shape, duration_s, rho, sky_e, arguments.events)
            rows.append((shape, duration_s, column, rho, found.mean(), found.max()))
    table = pd.DataFrame(rows, columns=["shape", "duration_s", "column", "rho", "mean", "worst"])
    print(f"{arguments.rows} rows; percent of rho lost to the baseline: mean (worst place)")
    words = table.assign(
        loss=[f"{100 * m:.1f} ({100 * w:.1f})" for m, w in zip(table["mean"], table["worst"], strict=True)]
    )
    print(words.pivot_table("loss", ["shape", "duration_s"], ["column", "rho"], aggfunc="first").to_string())
    if arguments.figure is not None:
        draw_figure(table, arguments.figure)


if __name__ == "__main__":
    main()
