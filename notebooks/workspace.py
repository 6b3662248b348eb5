"""Shared by all notebooks: a working folder, the amount of work, simulated nights, and stored figures."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.plots.frames import plot_light_curve, plot_strip
from shutterless.pipeline.psf import pixel_profile
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.ingest import ingest_files
from shutterless.workflows.frames.simulate import simulate_scene
from shutterless.workflows.report.candidate_cards import bin_time, cut_window, matched_light_curve, window_rows
from shutterless.workflows.settings.settings import load_scene

SMALL = "SHUTTERLESS_NOTEBOOK_SMALL"  # set to 1: the same steps with fewer rows and strips
FIGURES = "SHUTTERLESS_NOTEBOOK_FIGURES"  # folder for the figures
_DPI = 110
_MOST_BINS = 400

Value = TypeVar("Value")


@dataclass(frozen=True)
class Notebook:
    """Folders of a notebook, and the amount of its work.

    Parameters
    ----------
    name : str
    folder : Path
        Folder of its data; removed when the notebook ends.
    figures : Path
        Folder of its figures (PNG).
    small : bool
        Whether to do just enough to show that every step works; the results are then not meaningful.
    """

    name: str
    folder: Path
    figures: Path
    small: bool

    def choose(self, usual: Value, small: Value) -> Value:
        """Choose between the usual and the small amount of work."""
        return small if self.small else usual

    def keep(self, figure: Figure, name: str) -> None:
        """Write a figure as ``NAME.png``; Jupyter shows it by itself."""
        self.figures.mkdir(parents=True, exist_ok=True)
        path = self.figures / f"{name}.png"
        figure.savefig(path, dpi=_DPI)
        print(f"figure: {path}")


@dataclass(frozen=True)
class SimulatedNight:
    """Simulated frames with their truth, calibrated into a store."""

    files: tuple[Path, ...]
    truth: Path
    store: Path


def open_notebook(name: str) -> Notebook:
    """Set up a notebook by the variables `SMALL` and `FIGURES`; by default figures go to ``runs/notebooks/NAME``."""
    folder = Path(tempfile.mkdtemp(prefix=f"shutterless_{name}_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    figures = Path(os.environ.get(FIGURES) or Path("runs") / "notebooks") / name
    return Notebook(name, folder, figures, os.environ.get(SMALL, "0") not in ("", "0"))


def simulate_night(folder: Path, scenes: Mapping[str, Mapping[str, Any]]) -> SimulatedNight:
    """Simulate sequences and calibrate all of their frames into one store.

    Parameters
    ----------
    folder : Path
        Gets ``frames``, ``truth.parquet`` and ``store``.
    scenes : mapping of str to mapping
        Settings of each sequence by its name, as in a section ``[simulate.NAME]``.
    """
    executor = SerialExecutor()
    made = []
    for name, values in scenes.items():
        scene = load_scene({"sequence": name, "suffix": ".fits", **values})
        made.append(simulate_scene(scene, folder / "frames" / name, executor=executor))
    files = tuple(file for result in made for file in result.files)
    truth = pd.concat([pd.read_parquet(result.truth) for result in made], ignore_index=True)
    write_parquet(truth, folder / "truth.parquet")
    ingest_files(files, folder / "store", executor=executor)
    return SimulatedNight(files, folder / "truth.parquet", folder / "store")


def level_of_columns(amplifier: Amplifier) -> np.ndarray:
    """Mean over time of each column's baseline (electrons per pixel), shape (x,); NaN where it is masked throughout."""
    baseline = np.asarray(amplifier.baseline_e, dtype=np.float64)
    n_valid = np.isfinite(baseline).sum(axis=(0, 2))
    return np.divide(np.nansum(baseline, axis=(0, 2)), n_valid, out=np.full(n_valid.shape, np.nan), where=n_valid > 0)


def plot_trigger(amplifier: Amplifier, trigger: pd.Series, figure: Any) -> None:
    """Draw the residuals around a trigger, and below them its light curve in units of its own noise.

    Parameters
    ----------
    amplifier : Amplifier
    trigger : Series
        Of `shutterless.pipeline.detection.triggers.find_triggers`.
    figure : Figure
        Without Axes.
    """
    start, stop = window_rows(trigger, amplifier.n_rows)
    rows_per_bin = max(1, -(-(stop - start) // _MOST_BINS))
    strip, noise_e, first_column = cut_window(amplifier, trigger, start, stop)
    light = pixel_profile(np.arange(len(strip)) + first_column - float(trigger["x"]), amplifier.psf_sigma_px)
    curve = bin_time(matched_light_curve(strip, light / noise_e), rows_per_bin)
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    marked = (float(trigger["row_start"]), float(trigger["row_stop"]))
    plot_strip(
        bin_time(strip, rows_per_bin),
        above,
        first_row=start,
        first_column=first_column,
        rows_per_bin=rows_per_bin,
        marked_rows=marked,
    )
    seconds = amplifier.readout.seconds
    rows = start + (np.arange(len(curve)) + 0.5) * rows_per_bin - 0.5
    begin, end = seconds(np.array([marked[0] - 0.5, marked[1] + 0.5]))
    plot_light_curve(seconds(rows), curve, below, marked_s=(begin, end))
    below.set(xlabel="Read time since the shutter opened (s)", ylabel="Flux (σ per bin)")
