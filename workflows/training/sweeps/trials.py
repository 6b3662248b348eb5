"""Run one trial of a sweep: train a model with some hyperparameters, and stop early if it is far behind."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from shutterless.models.describe import count_parameters
from shutterless.models.families import build_model
from shutterless.models.training.settings import TrainingError
from shutterless.pipeline.examples.training import TrainingSet
from shutterless.pipeline.tokens import TokenGrid
from shutterless.workflows.settings.settings import TrainSettings
from shutterless.workflows.training.sweeps.study import COMPLETE, PRUNED, UNUSABLE, load_optuna
from shutterless.workflows.training.train import TrainTask, fit_detector

if TYPE_CHECKING:
    from optuna.trial import Trial


class UnusableError(ValueError):
    """Hyperparameters from which no model can be built."""


@dataclass
class TrialOutcome:
    """Result of a trial.

    Parameters
    ----------
    state : str
        `COMPLETE`, `PRUNED` (cut short) or `UNUSABLE` (no such model, or its loss was never finite).
    settings : TrainSettings
        With the trial's hyperparameters.
    reason : str or None
        Why the trial is unusable.
    n_parameters : int or None
    seconds : float
    rows : list of dict
        Its history up to its last epoch.
    """

    state: str
    settings: TrainSettings
    reason: str | None = None
    n_parameters: int | None = None
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """Smallest validation loss so far; infinite if there is none."""
        return min((loss for loss in _validation_losses(self.rows) if math.isfinite(loss)), default=math.inf)

    def attributes(self) -> dict[str, Any]:
        """Values that the study keeps with the trial beside its loss."""
        return {
            "n_parameters": self.n_parameters,
            "seconds": round(self.seconds, 3),
            "reason": self.reason,
            "unusable": self.state == UNUSABLE,
        }

    def __str__(self) -> str:
        n_epochs = len(_validation_losses(self.rows))
        if self.state == UNUSABLE:
            return f"unusable, {self.reason}"
        cut = f"cut short after {n_epochs} of {self.settings.epochs} epochs, " if self.state == PRUNED else ""
        return f"{cut}loss {self.loss:.4f}, {self.n_parameters:,} parameters, {self.seconds:.0f} s"


def fit_trial(
    trial: Trial,
    family: str,
    training_set: TrainingSet,
    settings: TrainSettings,
    folder: Path,
    *,
    data_hash: str,
    trained_on: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
) -> TrialOutcome:
    """Train one model as ``shutterless train`` does, and let the study cut it short.

    Parameters
    ----------
    trial : optuna Trial
        Gets the validation loss of every epoch.
    family : str
    training_set : TrainingSet
    settings : TrainSettings
        With the trial's hyperparameters.
    folder : Path
        For the model, unless the trial is cut short.
    data_hash : str
        Of the store's manifest.
    trained_on : mapping, optional
        As `shutterless.workflows.training.train.fit_detector`.
    callbacks : sequence of TrainerCallback
        Called beside the study's own.
    """
    outcome = TrialOutcome(COMPLETE, settings)
    reporter = _Reporter(trial, settings.epochs, outcome.rows)
    started = time.perf_counter()
    try:
        outcome.n_parameters = _count_parameters(family, training_set.grid, settings.architecture)
        task = TrainTask(family, family)
        fit_detector(
            task, training_set, settings, folder, data_hash=data_hash, trained_on=trained_on,
            callbacks=[*callbacks, reporter],
        )  # fmt: skip
    except load_optuna().TrialPruned:
        outcome.state = PRUNED
    except (UnusableError, TrainingError) as error:
        outcome.state, outcome.reason = UNUSABLE, str(error)
    outcome.seconds = time.perf_counter() - started
    return outcome


class _Reporter(TrainerCallback):
    """Reports the validation loss of every epoch to the study, and ends a training that is behind."""

    def __init__(self, trial: Trial, epochs: int, rows: list[dict[str, Any]]) -> None:
        self.trial, self.epochs, self.rows = trial, epochs, rows

    def on_history_row(self, row: dict[str, Any]) -> None:
        """Report a row; after the last epoch no time can be saved."""
        self.rows.append(row)
        if row["split"] != "validation":
            return
        epoch = len(_validation_losses(self.rows))
        self.trial.report(row["loss"], epoch)
        if epoch < self.epochs and self.trial.should_prune():
            raise load_optuna().TrialPruned


def _validation_losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["loss"] for row in rows if row["split"] == "validation"]


def _count_parameters(family: str, grid: TokenGrid, architecture: Mapping[str, Any]) -> int:
    """Number of parameters of a trial's model."""
    try:
        return count_parameters(build_model(family, grid, architecture))
    except (ValueError, TypeError, RuntimeError) as error:  # a library's errors on incompatible sizes
        raise UnusableError(f"no {family} can be built with {dict(architecture)}: {error}") from error
