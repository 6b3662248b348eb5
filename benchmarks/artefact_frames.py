"""Compare what a search of frames full of artefacts costs with what clean ones cost, with and without a limit.

    python benchmarks/artefact_frames.py

The frames have a hundred times as many satellites, aircraft, meteors, hot columns, traps and lost rows as
``--sky-lights`` and ``--detector`` draw, in still air. Times are processor times of whole searches in this process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from speed import simulate

from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.searching.search import AMPLIFIERS, search_files
from shutterless.workflows.settings.settings import SearchSettings, load_settings

TIMES = 100
RATES = (
    *("geosynchronous_per_hour", "low_orbit_per_hour", "aircraft_per_hour", "meteors_per_hour"),
    *("hot_columns", "traps", "dropped_runs_per_hour"),
)


def search(files: list[Path], out: Path, settings: SearchSettings) -> pd.Series:
    """Processor time of a search (s), and how many triggers and candidates it has."""
    began = time.process_time()
    found = search_files(files, reference="bundled", out=out, settings=settings, executor=SerialExecutor())
    spent = time.process_time() - began
    counts = pd.read_parquet(out / AMPLIFIERS)[["n_triggers", "n_unmeasured", "n_unasked"]].sum()
    return pd.concat([pd.Series({"seconds": spent}), counts, pd.Series({"candidates": len(found.candidates)})])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=9_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    usual = SceneSettings()
    artefacts = [word for name in RATES for word in ("--set", f"{name}={TIMES * getattr(usual, name)}")]
    settings = load_settings().search
    boundless = replace(settings, most_measured_per_second=1e9, most_asked_per_second=1e9)
    steady = ("--set", "first_row=20000")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clean = simulate(folder / "clean", arguments.rows, 1, ".fits.fz", steady)
        words = (*steady, "--detector", "--sky-lights", *artefacts)
        full = simulate(folder / "full", arguments.rows, 1, ".fits.fz", words)
        search(clean, folder / "first", settings)  # loads the detector
        table = pd.DataFrame(
            {
                "clean": search(clean, folder / "clean-found", settings),
                "full of artefacts": search(full, folder / "full-found", settings),
                "without a limit": search(full, folder / "boundless", boundless),
            }
        ).T
    table.insert(1, "over clean", table["seconds"] / table.loc["clean", "seconds"])
    print(table.round(2).to_string())


if __name__ == "__main__":
    main()
