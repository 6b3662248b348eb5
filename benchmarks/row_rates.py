"""What a search finds at 20, 300 and 1,000 rows/s: the same sky through a small camera that is clocked at each.

    python benchmarks/row_rates.py
    python benchmarks/row_rates.py --checkout ../older/typings    # beside it, the same frames by other code

Each rate has as many seconds of sky, the same stars, moving air, cosmic rays and pickup, and bursts and flares of the
same distribution in seconds and in optimal S/N. The template bank searches the files as `shutterless search` does.
Counted are events found above an S/N, by duration, and clusters above it that are no event; then candidates that no
event explains at ``--rate`` false alarms per amplifier-hour, beside the number that this rate promises.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import match_entries, wilson_interval
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.simulate import simulate_file

RATES_HZ = (20.0, 300.0, 1000.0)
DURATIONS_S = (0.0, 0.1, 1.0, 2.5, np.inf)
MIN_SNR, EVERYTHING = 6.5, 1e12
N_TRANSIT = 2048
# pixels large enough that stars never move as fast as 20 rows/s
CAMERA = """
name = "small"
description = "one CCD of one amplifier"
[recognise]
keywords = ["SMALLCAM"]
[geometry]
n_columns = {n_columns}
n_overscan_columns = 20
overscan_used = [8, 20]
[[quadrants]]
data_hdu = 1
overscan_hdu = 2
[keywords]
ccd = "DETECTOR"
amplifier = "AMP"
row_rate_hz = "LINERATE"
shutter_open_utc = "DATE-BEG"
sequence = "RUNID"
first_row = "ROW0"
n_transit = "NTRANSIT"
gain_e_per_adu = "EGAIN"
read_noise_e = "RDNOISE"
saturation_adu = "SATLEVEL"
band = "FILTER"
[defaults]
n_transit = {n_transit}
gain_e_per_adu = 1.5
read_noise_e = 4.0
saturation_adu = 65000.0
pixel_scale_arcsec = 2.0
seeing_arcsec = 3.5
"""
MAIN = "from shutterless.workflows.cli import main; main()"


@dataclass(frozen=True)
class Found:
    """Events with what was found, and candidates that no event explains above `MIN_SNR` and above a threshold."""

    events: pd.DataFrame
    false_alarms: int
    unexplained: int
    threshold: float


def write_frames(folder: Path, row_rate_hz: float, seed: int, arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Simulate one file; the file and its truth table."""
    camera = folder / "camera.toml"
    camera.write_text(CAMERA.format(n_columns=arguments.columns, n_transit=N_TRANSIT))
    settings = SceneSettings(
        instrument=str(camera), rows=round(arguments.seconds * row_rate_hz), events=arguments.events, seed=seed,
        kinds=("burst", "flare"), partial=0.0, longest_flare_s=0.3, rho=(8.0, 14.0), row_rate_hz=row_rate_hz,
        first_row=2 * N_TRANSIT, atmosphere=True, sequence=f"r{row_rate_hz:g}s{seed}", suffix=".fits",
        seeing_arcsec=3.5, n_bright_stars=300.0, bright_mag=8.0,
    )  # fmt: skip
    path, truth, _ = simulate_file(settings, 1, 0, folder)
    truth.to_parquet(folder / f"{path.stem}.parquet")
    return path, folder / f"{path.stem}.parquet"


def search(paths: list[Path], out: Path, checkout: str, rate: float) -> tuple[pd.DataFrame, float]:
    """Candidates of files at a rate of false alarms, by the code of a checkout, and the threshold."""
    words = ["search", *map(str, paths), "--instrument", str(paths[0].parent / "camera.toml")]
    words += ["--model", "template-bank"]
    words += ["--out", str(out), "--false-alarms-per-hour", str(rate), "--resume", "--quiet", "--no-dask"]
    environment = {**os.environ, "PYTHONPATH": checkout}
    subprocess.run([sys.executable, "-c", MAIN, *words], check=True, env=environment, stdout=subprocess.DEVNULL)
    threshold = json.loads((out / "search.json").read_text())["threshold"]
    return pd.read_parquet(out / "candidates.parquet"), threshold


def judge(frames: list[tuple[Path, Path]], checkout: str, rate: float, out: Path) -> Found:
    """Search the files of one row rate and count."""
    paths = [path for path, _ in frames]
    truth = pd.concat([pd.read_parquet(table).assign(entry=path.name) for path, table in frames])
    events = truth[truth["is_event"]].reset_index(drop=True)
    everything, _ = search(paths, out, checkout, EVERYTHING)
    loud = everything[everything["snr"].abs() >= MIN_SNR]
    matched = match(loud, events)
    events["found"] = np.isin(np.arange(len(events)), matched)
    few, threshold = search(paths, out, checkout, rate)
    return Found(events, int((matched < 0).sum()), int((match(few, events) < 0).sum()), threshold)


def match(candidates: pd.DataFrame, events: pd.DataFrame) -> np.ndarray:
    """Event that each candidate is, -1 of none."""
    width = candidates["row_stop"] - candidates["row_start"] + 1
    return match_entries(candidates.assign(entry=candidates["file"], width_rows=width, y=0.0), events.assign(y=0.0))


def row_of(name: str, row_rate_hz: float, found: Found, arguments: argparse.Namespace) -> dict[str, object]:
    """One line of the table."""
    events, hours = found.events, arguments.files * arguments.seconds / 3600
    row: dict[str, object] = {"code": name, "rows/s": row_rate_hz}
    for low, high in itertools.pairwise(DURATIONS_S):
        part = events[events["duration_s"].between(low, high, inclusive="left")]["found"]
        ends = wilson_interval(part.sum(), max(len(part), 1))
        row[f"{low:g}-{high:g} s"] = f"{part.sum()}/{len(part)} ({100 * ends[0]:.0f}-{100 * ends[1]:.0f} %)"
    row[f"false > {MIN_SNR}"] = found.false_alarms
    row["threshold"] = f"{found.threshold:.2f}"
    row[f"false at {arguments.rate:g}/h"] = found.unexplained
    row["promised"] = f"{arguments.rate * hours:.1f}"
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES_HZ)
    parser.add_argument("--seconds", type=float, default=180.0, help="of sky in each file")
    parser.add_argument("--files", type=int, default=3, help="at each row rate")
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--events", type=int, default=60, help="in each file")
    parser.add_argument("--rate", type=float, default=10.0, help="false alarms per amplifier-hour")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkout", help="folder to import another version of the package from, beside this one")
    parser.add_argument("--keep", type=Path, help="folder for frames and candidates, used again if they are there")
    arguments = parser.parse_args()
    codes = {"this": os.environ.get("PYTHONPATH", "")}
    codes |= {"other": arguments.checkout} if arguments.checkout else {}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for rate_hz in arguments.rates:
            frames = [write_frames(folder, rate_hz, arguments.seed + k, arguments) for k in range(arguments.files)]
            for name, checkout in codes.items():
                found = judge(frames, checkout, arguments.rate, folder / name / f"{rate_hz:g}")
                rows.append(row_of(name, rate_hz, found, arguments))
                print(rows[-1], flush=True)
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
