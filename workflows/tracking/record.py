"""Log trainings and evaluations: hyperparameters, loss per step, metrics, figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.describe import count_parameters, hyperparameters
from shutterless.models.evaluation.platt import reliability_error
from shutterless.models.families import family_of, load_model
from shutterless.models.training.learning_curves import Diagnosis, diagnose
from shutterless.pipeline.files import hash_file
from shutterless.workflows.pages.drawings import new_figure
from shutterless.workflows.pages.figures import plot_completeness, plot_learning_curves
from shutterless.workflows.settings.settings import TrainSettings
from shutterless.workflows.tracking.tracking import WEIGHTS, WEIGHTS_TAG, Run

HISTORY = "history.parquet"
TRAINING = "training.json"
TRAINED_ON = "trained_on"  # its key that names stores, sequences and contents
DATA_HASH = "evaluation.data_hash"
LEARNING_CURVE = "learning_curve"
FORCED_CHOICE = "validation.forced_choice"
MODEL_HASH = WEIGHTS_TAG
STARTED = "started"  # key of `TRAINING`: when the training began, in seconds since 1970
_TRAINED_FROM = (("hash", "manifest_hash"), ("seed", "seed"))


def read_training(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Read the summary and the history that a training wrote beside its model."""
    return json.loads((folder / TRAINING).read_text()), pd.read_parquet(folder / HISTORY)


def diagnose_training(folder: Path) -> Diagnosis:
    """Diagnose the learning curve that a training wrote beside its model."""
    dropout = getattr(load_model(folder).config, "dropout", None)
    return diagnose(pd.read_parquet(folder / HISTORY), dropout=dropout)


def record_training(run: Run, folder: Path, settings: TrainSettings, *, live: bool = False) -> None:
    """Log a finished training.

    ``arch.*`` and ``train.*``, data hash and seed, loss of every logged step, the learning curve and its diagnosis,
    and the share of right choices between events and false triggers of equal S/N. With ``live`` the steps were logged
    while it trained (`record_step`).
    """
    summary, history = read_training(folder)
    diagnosis = diagnose_training(folder)
    run.log_tags({LEARNING_CURVE: diagnosis.title, f"{LEARNING_CURVE}.evidence": diagnosis.evidence})
    run.log_tags({MODEL_HASH: hash_weights(folder), "shuffled": str(summary["shuffled"]).lower()})
    run.log_params({"family": summary["family"], "n_parameters": summary["n_parameters"]}, prefix="arch.")
    run.log_params(hyperparameters(load_model(folder)))
    run.log_params({"n_examples": settings.n_examples, "event_fraction": settings.event_fraction}, prefix="train.")
    if summary.get("init"):
        run.log_params({"init": summary["init"]}, prefix="train.")
    run.log_data(manifest_hash=summary["manifest_hash"], seed=summary["seed"])
    run.log_metrics({"train_seconds": summary["train_seconds"], "best_epoch": summary["best_epoch"]})
    choice = {FORCED_CHOICE: summary["forced_choice"], f"{FORCED_CHOICE}_error": summary["forced_choice_error"]}
    run.log_metrics({name: value for name, value in choice.items() if np.isfinite(value)})
    for row in () if live else history.to_dict("records"):
        began = summary.get(STARTED)
        record_step(run, row, at=None if began is None else began + row["seconds"])
    figure = new_figure(7, 4)
    plot_learning_curves(history, figure.add_subplot())
    run.log_figure(figure, "learning_curve.png")


def record_step(run: Run, row: Mapping[str, Any], at: float | None = None) -> None:
    """Log a row of a training's history: loss, accuracy and AUC of a step, and when that was."""
    numbers = {name: row[name] for name in ("loss", "accuracy", "auc") if np.isfinite(row[name])}
    run.log_metrics({f"{row['split']}.{key}": value for key, value in numbers.items()}, int(row["step"]), at)


def training_span(folder: Path) -> tuple[float, float] | None:
    """When a training began and ended, in seconds since 1970; None where that was not recorded."""
    summary = json.loads((folder / TRAINING).read_text())
    began = summary.get(STARTED)
    return None if began is None else (began, began + summary["train_seconds"])


def record_model(run: Run, summary: Mapping[str, Any], folder: str | None) -> None:
    """Log a detector's family, parameters, hyperparameters, and the data and seed of its training.

    Parameters
    ----------
    run : Run
    summary : mapping
        Its row of an evaluation's summary.
    folder : str or None
        None for the template bank, which was not trained.
    """
    if folder is None:
        run.log_params({"family": summary["family"], "n_parameters": 0}, prefix="arch.")
        return
    model = load_model(Path(folder))
    run.log_params({"family": family_of(model), "n_parameters": count_parameters(model)}, prefix="arch.")
    run.log_params(hyperparameters(model))
    run.log_tags({MODEL_HASH: hash_weights(Path(folder))})
    run.link_model(hash_weights(Path(folder)))
    known = json.loads(path.read_text()) if (path := Path(folder) / TRAINING).is_file() else {}
    trained = {f"training_{name}": known[key] for name, key in _TRAINED_FROM if key in known}
    run.log_params(trained, prefix="data.")
    if known.get("train_seconds"):
        run.log_metrics({"train_seconds": known["train_seconds"]})


def record_evaluation(
    run: Run,
    summary: Mapping[str, Any],
    completeness: pd.DataFrame,
    *,
    events: pd.DataFrame | None = None,
    reliability: pd.DataFrame | None = None,
    eta: float | None = None,
    data_hash: str | None = None,
) -> None:
    """Log the evaluation of one detector.

    Parameters
    ----------
    run : Run
    summary : mapping
        Its row of the summary; finite numbers become metrics.
    completeness, events, reliability : DataFrame
        Of all detectors; the rows of this one are logged as tables.
    eta : float, optional
        Threshold of the optimum at the same rate of false alarms.
    data_hash : str, optional
        Of the store and the events counted in it. Runs with the same hash are compared event by event.
    """
    metrics = {name: value for name, value in summary.items() if _is_metric(name, value)}
    tables = {"completeness": completeness, "events": events, "reliability": reliability}
    for name, table in tables.items():
        own = _rows_of(table, summary["detector"])
        if own.empty:
            continue
        run.log_table(own, name)
        if name == "reliability" and own["n"].sum():
            metrics["calibration_error"] = reliability_error(own)
    run.log_metrics(metrics if eta is None else {**metrics, "eta": eta})
    if data_hash is not None:
        run.log_tags({DATA_HASH: data_hash})
    figure = new_figure(7, 4)
    shown = _rows_of(completeness, summary["detector"])
    plot_completeness(shown[shown["kind"] == "all"], figure.add_subplot(), eta=eta)
    run.log_figure(figure, "completeness.png")


def hash_weights(folder: Path) -> str:
    """Hash of a model's weights, by which the runs that evaluate a model find the run that trained it."""
    return hash_file(folder / WEIGHTS).hexdigest()


def _rows_of(table: pd.DataFrame | None, detector: str) -> pd.DataFrame:
    if table is None or "detector" not in table:
        return pd.DataFrame()
    return table[table["detector"] == detector]


def _is_metric(name: str, value: Any) -> bool:
    return (
        name not in ("n_parameters", "shuffled", "extrapolated", "train_seconds")
        and isinstance(value, int | float | np.number)
        and bool(np.isfinite(value))
    )
