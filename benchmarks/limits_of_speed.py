"""Compare each step of a search with what the memory and the arithmetic of one core allow.

    python benchmarks/limits_of_speed.py

Bytes and operations per pixel are counted by hand from the loops of each step; they are what is needed, not what is
done. Bandwidth and arithmetic are measured in the same process by loops that do nothing else. The time of a step is
processor time of one amplifier, everything on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pandas as pd
from speed import CAMERA_MPIX_S, NUISANCES, simulate, time_steps

# bytes of memory that a step must read and write per pixel, and operations on single-precision numbers. Decoding reads
# 0.7 bytes and writes two. Calibration reads the pixels twice, writes half floats and reads them once; its operations:
# electrons twice 12, block means 24, level, variance and shared row 40, half floats 10, statistics 14, and four powers
# of the serial trap 160. The scan reads half floats: filter of nine columns 18, boxes of 20 widths 17, largest 9. What
# triggers cost is not counted by the pixel
NEEDED = {"decode": (2.7, 20), "calibrate": (8.0, 260), "stage 1": (2.0, 44)}
BUFFER_MB, N_SUMS, N_ROUNDS = 256, 64, 20_000


@numba.njit(fastmath=True)
def add_arrays(one: np.ndarray, other: np.ndarray) -> None:  # pragma: no cover - compiled
    """Read two arrays and write one of them."""
    for k in range(len(one)):
        one[k] += other[k]


@numba.njit(fastmath={"contract"})
def multiply_and_add(sums: np.ndarray, factor: np.float32, n_rounds: int) -> None:  # pragma: no cover - compiled
    """Do ``2 n_rounds len(sums)`` operations on numbers that stay in registers or in the first cache."""
    for _ in range(n_rounds):
        for k in range(N_SUMS):
            sums[k] = sums[k] * factor + factor


def fastest(function: Callable[[], Any], repeats: int) -> float:
    """Least processor time of a call (s), after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return min(times)


def bytes_per_ns(repeats: int) -> float:
    """Bytes that one core reads and writes in a nanosecond, from arrays larger than the caches."""
    one, other = np.ones((2, BUFFER_MB * 10**6 // 8), np.float32)
    return 12 * len(one) / fastest(partial(add_arrays, one, other), repeats) / 1e9


def operations_per_ns(repeats: int) -> float:
    """Multiplications and additions of single-precision numbers that one core does in a nanosecond."""
    sums = np.ones(N_SUMS, np.float32)
    return 2 * N_SUMS * N_ROUNDS / fastest(partial(multiply_and_add, sums, np.float32(0.5), N_ROUNDS), repeats) / 1e9


def compare(steps: pd.Series, bandwidth: float, arithmetic: float) -> pd.DataFrame:
    """Nanoseconds per pixel that a step takes, and that memory and arithmetic would take."""
    table = pd.DataFrame({"ns per pixel": steps[list(NEEDED)]})
    needed = np.array([NEEDED[step] for step in table.index])
    table["memory alone"], table["arithmetic alone"] = needed[:, 0] / bandwidth, needed[:, 1] / arithmetic
    limit = table[["memory alone", "arithmetic alone"]].max(axis=1)
    table.insert(1, "limit", limit)
    table.insert(2, "times the limit", table["ns per pixel"] / limit)
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        frames = simulate(Path(name), arguments.rows, 2, ".fits.fz", NUISANCES)
        steps = time_steps(frames[1], 1, arguments.repeats)
    bandwidth, arithmetic = bytes_per_ns(10), operations_per_ns(10)
    print(f"one core: {bandwidth:.1f} bytes and {arithmetic:.0f} operations in a nanosecond")
    print(compare(steps, bandwidth, arithmetic).round(1).to_string())
    triggers = steps[["measure triggers", "score by the bundled model"]]
    print("triggers, ns per pixel: " + ", ".join(f"{step} {spent:.1f}" for step, spent in triggers.items()))
    print(f"two cores keep up with the camera at {2e3 / CAMERA_MPIX_S:.0f} ns per pixel")


if __name__ == "__main__":
    main()
