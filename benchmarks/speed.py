"""Measure the speed of a search: decoding, ingest, stage 1, search with and without a model, and every step.

    python benchmarks/speed.py

All are timed in one run on the same simulated frames from the page cache: one CCD, four files of 12,000 rows, the first
with the sky ramp. The frames have stars, cosmic rays, pickup and events as in `shutterless simulate`; ``--nuisances``
adds moving air, the serial trap, faults and satellites. The camera factor is Mpix/s over the 59.0 Mpix/s of the whole
ZTF camera at 300 rows a second. Workers are started and warm; `start_up.py` measures the start-up.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits

from shutterless.pipeline.calibration import quality
from shutterless.pipeline.calibration import residuals as calibrate
from shutterless.pipeline.calibration.exposure import calibrate_exposure, exposure_shape
from shutterless.pipeline.calibration.motion import clean as cleaning
from shutterless.pipeline.calibration.streaks import find as streaks
from shutterless.pipeline.calibration.streaks.background import sky_level
from shutterless.pipeline.detection.scan import choose_hits, scan
from shutterless.pipeline.detection.threshold import TRIGGER_THRESHOLD
from shutterless.pipeline.detection.triggers import LEAST_SHARE, characterise
from shutterless.pipeline.reading.exposures import read_exposure
from shutterless.pipeline.reading.frames import open_amplifier_rows
from shutterless.pipeline.store.store import open_amplifier, read_manifest
from shutterless.workflows.execution.cluster import Executor, open_executor
from shutterless.workflows.frames.ingest import ingest_files
from shutterless.workflows.searching.detect import score_triggers
from shutterless.workflows.searching.search import find_detector, search_files
from shutterless.workflows.settings.settings import load_settings

CAMERA_MPIX_S = 64 * 3072 * 300 / 1e6
MAIN = "from shutterless.workflows.cli import main; main()"
NUISANCES = ("--atmosphere", "--detector", "--sky-lights")


def simulate(folder: Path, rows: int, files: int, suffix: str, options: Sequence[str] = ()) -> list[Path]:
    """Frames of one CCD, with further options of ``simulate``; the pixels do not depend on the suffix."""
    words = ["--rows", str(rows), "--files", str(files), "--seed", "15", "--sequence", "speed", "--quiet"]
    words += ["--set", f"suffix={suffix}", *options]
    subprocess.run([sys.executable, "-c", MAIN, "simulate", "--out", str(folder), *words], check=True)
    return sorted(folder.glob(f"*{suffix}"))


def decode(task: tuple[Path, int]) -> int:
    """Read an amplifier as the search does."""
    path, quadrant = task
    with open_amplifier_rows(path, quadrant) as rows:
        pixels = np.empty((rows.n_rows, rows.pixels.n_columns), rows.pixels.dtype)
        rows.read(0, pixels)
    return pixels.size


def decode_by_astropy(task: tuple[Path, int]) -> int:
    """Read an amplifier as astropy does."""
    path, quadrant = task
    with fits.open(path, memmap=False) as hdus:
        return hdus[quadrant].data.size + hdus[quadrant + 4].data.size


def scan_entry(entry: str, store: Path) -> int:
    """Stage 1 of an amplifier of a store: 20 widths, both signs, local maxima."""
    return len(scan(open_amplifier(store, entry)))


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median time of a call, after a warm-up."""
    function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def map_all(executor: Executor, function: Callable[[Any], Any], items: list[Any]) -> None:
    """Run all items, and fail if one fails."""
    for outcome in executor.map(function, items, describe="benchmark"):
        if outcome.value is None:
            raise SystemExit(outcome.error)


def run_fresh(function: Callable[[Path], Any], folder: Path) -> None:
    """Call with the path of a folder that does not exist yet."""
    shutil.rmtree(folder, ignore_errors=True)
    function(folder)


def time_workers(n_workers: int, files: dict[str, list[Path]], folder: Path, repeats: int) -> dict[str, float]:
    """Seconds of each task with ``n_workers`` workers."""
    settings = load_settings(None, []).search
    amplifiers = {suffix: [(path, q) for path in paths for q in (1, 2, 3, 4)] for suffix, paths in files.items()}
    found = {}
    with open_executor(n_workers) as executor:
        for name, function, suffix in (
            ("decode .fz", decode, ".fits.fz"),
            ("decode .fz by astropy", decode_by_astropy, ".fits.fz"),
            ("decode .fits", decode, ".fits"),
        ):
            found[name] = seconds(partial(map_all, executor, function, amplifiers[suffix]), repeats)
        ingest = partial(ingest_files, files[".fits.fz"], executor=executor)
        found["ingest .fz"] = seconds(partial(run_fresh, ingest, folder / "store"), repeats)
        entries = read_manifest(folder / "store")["entry"].tolist()
        scan_one = partial(scan_entry, store=folder / "store")
        found["stage 1"] = seconds(partial(map_all, executor, scan_one, entries), repeats)
        for suffix, reference in ((".fits.fz", "template-bank"), (".fits.fz", "bundled"), (".fits", "template-bank")):
            search = partial(
                lambda out, **options: search_files(options.pop("files"), out=out, **options),
                files=files[suffix], reference=reference, settings=settings, executor=executor,
            )  # fmt: skip
            name = f"search {suffix.removeprefix('.fits') or '.fits'}, {reference}"
            found[name] = seconds(partial(run_fresh, search, folder / "found"), repeats)
    return found


def time_steps(path: Path, quadrant: int, repeats: int) -> pd.Series:
    """Processor time of every step of one amplifier in this process (ns per pixel), median of the repeats."""
    rows = [_time_steps_once(path, quadrant) for _ in range(repeats + 1)][1:]
    return pd.DataFrame(rows).median()


def _time_steps_once(path: Path, quadrant: int) -> dict[str, float]:
    clock, found = [time.process_time()], {}

    def lap(name: str) -> None:
        now = time.process_time()
        found[name], clock[0] = (now - clock[0]) * 1e9 / frame.pixels_adu.size, time.process_time()

    frame = read_exposure(path, quadrant)
    lap("decode")
    residual = np.empty(exposure_shape(frame), np.float16)
    calibrated = calibrate_exposure(frame, residual)
    lap("calibrate")
    amplifier = calibrated.amplifier("benchmark")
    hits = scan(amplifier)
    lap("stage 1")
    budget = load_settings(None, []).search.budget
    hits = hits[choose_hits(hits, budget.of(amplifier)[0])]
    lap("choose triggers")
    triggers = characterise(amplifier, hits, LEAST_SHARE * TRIGGER_THRESHOLD)
    lap("measure triggers")
    score_triggers(amplifier, triggers, (find_detector("bundled"),), budget=budget)
    lap("score by the bundled model")
    baseline = calibrate.fit_baseline(frame)
    lap("  of calibrate: baseline")
    profile = streaks.collapse_profile(baseline.level_e, frame.readout.read_noise_e, len(frame.pixels_adu))
    stars, sigma_px = streaks.find_streaks(*profile, frame.readout.psf_sigma_px, frame.readout, baseline.ramps)
    lap("  of calibrate: streaks")
    for chunk in calibrate.iterate_residuals(frame, baseline):
        chunk.write_to(residual[0])
    lap("  of calibrate: residuals")
    steady = baseline.level_e.mean(axis=0)
    sigma_e = calibrated.arrays["sigma_e"][0]
    clock[0] = time.process_time()
    cleaning.clean_streaks(residual[0], sigma_e, steady, sky_level(steady), stars, sigma_px, frame.readout)
    lap("  of calibrate: streak cleaning")
    quality.column_statistics(residual[0])
    lap("  of calibrate: statistics")
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--nuisances", action="store_true", help="moving air, serial trap, faults, satellites")
    arguments = parser.parse_args()
    options = NUISANCES if arguments.nuisances else ()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {
            suffix: simulate(folder / suffix[1:], arguments.rows, arguments.files, suffix, options)
            for suffix in (".fits.fz", ".fits")
        }
        n_mpix = arguments.rows * arguments.files * 4 * 3072 / 1e6
        kind = "moving air, serial trap, faults and satellites on" if arguments.nuisances else "still air"
        print(f"{platform.machine()}, {os.cpu_count()} cores; {n_mpix:,.0f} Mpix of simulated frames, {kind}")
        many, one = (time_workers(n, files, folder, arguments.repeats) for n in (arguments.workers, 1))
        table = pd.DataFrame({"seconds": many, "seconds with 1 worker": one})
        table.insert(0, "Mpix/s", n_mpix / table["seconds"])
        table.insert(1, "camera factor", table["Mpix/s"] / CAMERA_MPIX_S)
        table["gain of workers"] = table["seconds with 1 worker"] / table["seconds"]
        print(f"\n{arguments.workers} workers\n{table.round(2).to_string()}")
        for reference in ("template-bank", "bundled"):
            search = many[f"search .fz, {reference}"]
            print(
                f"search of .fz, {reference}: {search / many['decode .fz']:.2f} times decoding alone, "
                f"{search / many['decode .fz by astropy']:.2f} times decoding by astropy"
            )
        middle = files[".fits.fz"][len(files[".fits.fz"]) // 2]
        steps = time_steps(middle, 1, arguments.repeats)
        print(f"\nns per pixel of one amplifier of {middle.name}, one process\n{steps.round(2).to_string()}")


if __name__ == "__main__":
    main()
