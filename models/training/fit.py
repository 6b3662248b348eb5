"""Train a detector with the `transformers` Trainer and keep the weights of its best epoch.

    model = build_model("transformer", training_set.grid, seed=1)
    result = fit_model(model, training_set, TrainingSettings(epochs=4))
    result.model.save_pretrained("runs/transformer")

This module uses no tracking server: pass callbacks to log live.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.optim.swa_utils import AveragedModel
from transformers import EvalPrediction, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from shutterless.models.dataset import (
    LABEL_NAMES,
    StripDataset,
    pass_batch,
    split_by_group,
)
from shutterless.models.evaluation.platt import roc_area
from shutterless.models.inputs import DetectorModel
from shutterless.models.scoring import choose_device
from shutterless.models.training.settings import TrainingError, TrainingSettings
from shutterless.pipeline.examples.training import TrainingSet
from shutterless.pipeline.settings import plain_values
from shutterless.pipeline.tokens import STRIPS_AT_ONCE, check_same_grid

HISTORY_COLUMNS = ("step", "epoch", "seconds", "split", "loss", "accuracy", "auc")


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Parameters
    ----------
    model : DetectorModel
        With the weights of the best epoch, in evaluation mode on the CPU.
    history : DataFrame
        ``step``, ``epoch``, ``seconds``, ``split`` ("train" or "validation"), ``loss``, ``accuracy``, ``auc``. A
        training row is a mean over the batches since the last one, while weights change and strips are mirrored. A
        validation row is a mean over all validation strips at the end of an epoch.
    best_epoch : float
        Epoch of the smallest validation loss; its weights are kept.
    training_index, validation_index : ndarray of int
        Indices of the training and validation strips in the training set.
    """

    model: DetectorModel
    history: pd.DataFrame
    best_epoch: float
    training_index: np.ndarray
    validation_index: np.ndarray


def fit_model(
    model: DetectorModel,
    training_set: TrainingSet,
    settings: TrainingSettings | None = None,
    *,
    validation_groups: Sequence[int] | None = None,
    validation_alarms: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingResult:
    """Train a model; on one machine, the same seeds give identical weights.

    Parameters
    ----------
    model : DetectorModel
        Trained in place. Its input scaling is fitted to the training strips first.
    training_set : TrainingSet
    settings : TrainingSettings, optional
    validation_groups : sequence of int, optional
        Groups to validate on; drawn with the settings' fraction and seed if left out.
    validation_alarms : int, optional
        Keep the epoch in which the most validation events are above this many validation strips without an event,
        instead of that of the smallest validation loss: false alarms per hour, times the hours that were validated on.
    callbacks : sequence of TrainerCallback
        Called by the Trainer, e.g. to log live. A callback with a method ``on_history_row(row)`` also receives each row
        of the history as a dict.
    """
    settings = settings or TrainingSettings()
    model.check_features()
    model.check_numbers(training_set.numbers)
    check_same_grid(training_set.grid, model.grid, "the training set")
    train, validation = split_by_group(
        training_set.groups,
        validation_groups=validation_groups,
        fraction=settings.validation_fraction,
        seed=settings.seed,
    )
    datasets = _datasets(training_set, train, validation, settings)
    model.scaling.fit(training_set.strips[train])
    if training_set.numbers is not None:
        model.encoding.fit(torch.from_numpy(training_set.numbers[train]))
    recorder = HistoryRecorder(model, listeners=callbacks, by_recall=validation_alarms is not None)
    # swaps the weights back after the recorder has kept them
    averaging = [] if settings.average_decay is None else [AveragedWeights(model, settings.average_decay)]
    with tempfile.TemporaryDirectory() as folder, own_random_state():
        arguments = _trainer_arguments(settings, folder)
        metrics = partial(_event_metrics, n_alarms=validation_alarms)
        trainer = _DetectorTrainer(model, arguments, datasets, metrics, [recorder, *averaging, *callbacks])
        trainer.train()
    recorder.restore_best()
    model.config.training = {
        **plain_values(settings, TrainingSettings),
        "best_epoch": recorder.best_epoch,
        "n_strips": len(train),
    }
    history = pd.DataFrame(recorder.rows, columns=list(HISTORY_COLUMNS))
    return TrainingResult(model.cpu().eval(), history, recorder.best_epoch, train, validation)


def _datasets(
    training_set: TrainingSet, train: np.ndarray, validation: np.ndarray, settings: TrainingSettings
) -> tuple[StripDataset, StripDataset]:
    """Build training and validation datasets; a control permutes the labels within each."""
    rng = np.random.default_rng(settings.seed)
    learned, judged = (training_set[index] for index in (train, validation))
    train_labels, validation_labels = (
        training_set.labels[rng.permutation(index) if settings.shuffled_labels else index]
        for index in (train, validation)
    )
    return (
        StripDataset(
            learned.strips, train_labels, learned.grid,
            numbers=learned.numbers, flip_columns=settings.flip_columns, seed=settings.seed,
        ),
        StripDataset(judged.strips, validation_labels, judged.grid, numbers=judged.numbers),
    )  # fmt: skip


def _trainer_arguments(settings: TrainingSettings, folder: str) -> TrainingArguments:
    """Convert the settings to arguments of the Trainer."""
    on_gpu = choose_device(settings.device) == "cuda"
    return quiet_arguments(
        settings, folder,
        eval_strategy="epoch",
        logging_strategy="steps",
        logging_steps=settings.log_steps,
        max_steps=settings.max_steps or -1,
        per_device_eval_batch_size=STRIPS_AT_ONCE,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        label_names=LABEL_NAMES,
    )  # fmt: skip


def quiet_arguments(settings: Any, folder: str, **own: Any) -> TrainingArguments:
    """Arguments of the Trainer without its saving and reporting, and with the optimiser that all detectors share.

    Parameters
    ----------
    settings : TrainingSettings
        Or those of another detector, with the same names for the optimiser.
    folder : str
        Scratch space.
    **own
        Further arguments.
    """
    return TrainingArguments(
        output_dir=folder,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_fraction,  # below 1 it is a fraction of all steps
        max_grad_norm=settings.gradient_clip,
        seed=settings.seed,
        data_seed=settings.seed,
        remove_unused_columns=False,  # the datasets use the model's own names
        **own,
    )


@contextmanager
def own_random_state() -> Iterator[None]:
    """Restore the caller's global generators, which the Trainer seeds."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


class _DetectorTrainer(Trainer):
    """Trainer that keeps the event logits of its training batches, so that training accuracy needs no extra pass."""

    def __init__(
        self,
        model: DetectorModel,
        arguments: TrainingArguments,
        datasets: tuple[StripDataset, StripDataset],
        metrics: Callable[[EvalPrediction], dict[str, float]],
        callbacks: list[TrainerCallback],
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=datasets[0],
            eval_dataset=datasets[1],
            data_collator=pass_batch,  # type: ignore[arg-type]
            compute_metrics=metrics,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        self.predictions: list[tuple[torch.Tensor, torch.Tensor]] = []

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Compute the loss as usual and keep the predictions on training batches."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if model.training:
            self.predictions.append((outputs["event_logit"].detach(), inputs["is_event"]))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add accuracy and AUC of the batches since the last log to a training row."""
        if "loss" in logs and self.predictions:
            logit, is_event = (torch.cat(parts).float().cpu().numpy() for parts in zip(*self.predictions, strict=True))
            logs.update(accuracy_and_auc(logit, is_event))
            self.predictions.clear()
        super().log(logs, *args, **kwargs)


def _event_metrics(prediction: EvalPrediction, n_alarms: int | None) -> dict[str, float]:
    """Accuracy and AUC of the event decision, and events above a number of false alarms, for the Trainer."""
    logit, is_event = prediction.predictions[0], prediction.label_ids[0]
    found = accuracy_and_auc(logit, is_event)
    return found if n_alarms is None else {**found, "recall": recall_at(logit, is_event, n_alarms)}


def recall_at(event_logit: np.ndarray, is_event: np.ndarray, n_alarms: int) -> float:
    """Fraction of the events above all but ``n_alarms`` of the strips without an event."""
    noise = np.sort(event_logit[is_event < 0.5])[::-1]
    limit = noise[n_alarms] if n_alarms < len(noise) else -np.inf
    return float(np.mean(event_logit[is_event > 0.5] > limit))


def accuracy_and_auc(event_logit: np.ndarray, is_event: np.ndarray) -> dict[str, float]:
    """Fraction of right decisions at probability 1/2, and area under the ROC curve."""
    right = (event_logit > 0) == (is_event > 0.5)
    return {"accuracy": float(right.mean()), "auc": roc_area(event_logit, is_event)}


class AveragedWeights(TrainerCallback):
    """Exponential mean of the weights over the steps. A model is validated with it, and it is what is kept.

    Step n keeps (1 + n) / (10 + n) of the mean before it, at most ``decay``, so that the first weights are forgotten.
    """

    def __init__(self, model: DetectorModel, decay: float) -> None:
        self.model = model
        self.averaged = AveragedModel(
            model, avg_fn=lambda mean, own, n: torch.lerp(own, mean, min(decay, (1 + int(n)) / (10 + int(n))))
        )
        self.own: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the weights of this step to the mean."""
        self.averaged.update_parameters(self.model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Validate the mean."""
        self.own = {name: weights.detach().clone() for name, weights in self.model.state_dict().items()}
        self.model.load_state_dict(self.averaged.module.state_dict())

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on with the weights of the last step."""
        self.model.load_state_dict(self.own)


class HistoryRecorder(TrainerCallback):
    """Collect the history and a copy of the weights of the best epoch."""

    def __init__(self, model: DetectorModel, listeners: Sequence[Any] = (), *, by_recall: bool = False) -> None:
        self.model = model
        self.by_recall = by_recall
        self.listeners = [listener for listener in listeners if hasattr(listener, "on_history_row")]
        self.rows: list[dict[str, Any]] = []
        self.best_epoch, self.best = float("nan"), (float("-inf"), float("-inf"))
        self.best_weights: dict[str, torch.Tensor] = {}
        self.start = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add a training row; `on_evaluate` adds those of validation, and the summary at the end has no loss."""
        if logs and "loss" in logs:
            self._add(state, "train", logs["loss"], logs["accuracy"], logs["auc"])

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Add a validation row and keep the weights if they are the best so far."""
        loss = metrics["eval_loss"]
        self._add(state, "validation", loss, metrics["eval_accuracy"], metrics["eval_auc"])
        # of equal recalls the smaller loss; a loss that is not finite is never the best
        quality = (metrics["eval_recall"] if self.by_recall else 0.0, -loss)
        if np.isfinite(loss) and quality > self.best:
            self.best, self.best_epoch = quality, float(state.epoch)
            self.best_weights = {name: w.detach().clone() for name, w in self.model.state_dict().items()}

    def restore_best(self) -> None:
        """Put the weights of the best epoch back."""
        if not self.best_weights:
            raise TrainingError(
                "the validation loss was never finite: lower the learning rate, or look for non-finite inputs"
            )
        self.model.load_state_dict(self.best_weights)

    def _add(self, state: Any, split: str, loss: float, accuracy: float, auc: float) -> None:
        values = (state.global_step, state.epoch, time.perf_counter() - self.start, split, loss, accuracy, auc)
        row = dict(zip(HISTORY_COLUMNS, values, strict=True))
        self.rows.append(row)
        for listener in self.listeners:
            listener.on_history_row(row)
