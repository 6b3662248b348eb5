"""What a run leaves in the tracking store: hyperparameters, loss per step, metrics, figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.describe import hyperparameters
from shutterless.models.families import load_model
from shutterless.workflows.figures import plot_completeness, plot_learning_curves
from shutterless.workflows.page import new_figure
from shutterless.workflows.settings import TrainSettings
from shutterless.workflows.tracking import Run

HISTORY = "history.parquet"
TRAINING = "training.json"


def read_training(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Read what a training left beside its model: its summary and its history."""
    return json.loads((folder / TRAINING).read_text()), pd.read_parquet(folder / HISTORY)


def record_training(run: Run, folder: Path, settings: TrainSettings) -> None:
    """Log a finished training: ``arch.*`` and ``train.*``, data hash and seed, loss of every logged step, its curve."""
    summary, history = read_training(folder)
    run.log_params({"family": summary["family"], "n_parameters": summary["n_parameters"]}, prefix="arch.")
    run.log_params(hyperparameters(load_model(folder)))
    run.log_params({"n_examples": settings.n_examples, "event_fraction": settings.event_fraction}, prefix="train.")
    run.log_data(manifest_hash=summary["manifest_hash"], seed=summary["seed"])
    run.log_metrics({"train_seconds": summary["train_seconds"], "best_epoch": summary["best_epoch"]})
    for record in history.to_dict("records"):
        numbers = {name: record[name] for name in ("loss", "accuracy", "auc") if pd.notna(record[name])}
        run.log_metrics({f"{record['split']}.{key}": value for key, value in numbers.items()}, int(record["step"]))
    figure = new_figure(7, 4)
    plot_learning_curves(history, figure.add_subplot())
    run.log_figure(figure, "learning_curve.png")


def record_evaluation(run: Run, summary: Mapping[str, Any], completeness: pd.DataFrame) -> None:
    """Log what an evaluation says of one detector: its row of the summary, and completeness against rho."""
    metrics = {name: value for name, value in summary.items() if _is_metric(name, value)}
    run.log_metrics(metrics)
    own = completeness[completeness["detector"] == summary["detector"]]
    run.log_table(own, "completeness")
    figure = new_figure(7, 4)
    plot_completeness(own[own["kind"] == "all"], figure.add_subplot())
    run.log_figure(figure, "completeness.png")


def _is_metric(name: str, value: Any) -> bool:
    return (
        name not in ("n_parameters", "shuffled", "extrapolated", "train_seconds")
        and isinstance(value, int | float | np.number)
        and bool(np.isfinite(value))
    )
