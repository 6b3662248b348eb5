"""Hyperparameters of a training. Imported before torch is, by the commands that read them from a file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shutterless.pipeline.settings import Count, CountFrom0, InnerShare, NotNegative, Positive, settings_class

WarmupFraction = Annotated[float, Field(ge=0, lt=1)]


class TrainingError(ValueError):
    """Settings or strips with which no training can run."""


@settings_class(TrainingError)
class TrainingSettings:
    """Hyperparameters of a training (those of the architecture are the model's own).

    Parameters
    ----------
    seed : int
        Fixes the split, the order of the strips, mirroring, dropout and the permutation.
    epochs : int
        Passes over the training strips.
    max_steps : int or None
        Stop after this number of batches, whatever the epochs.
    batch_size : int
        Strips in a batch.
    learning_rate, weight_decay, warmup_fraction : float
        Settings of AdamW; the rate rises linearly over the first fraction of the steps and falls along a cosine to 0.
    gradient_clip : float
        Largest norm of the gradient.
    validation_fraction : float
        Fraction of the groups to validate on, if the caller names none.
    flip_columns : bool
        Mirror training strips left-right at random.
    shuffled_labels : bool
        Control experiment: labels are permuted among the training strips and among the validation strips, so that
        neither the weights nor the choice of the best epoch can learn anything
        (`shutterless.models.evaluation.forced_choice`).
    average_decay : float or None
        Share of the mean of the weights that each step keeps; the mean is validated and kept. None for no mean.
    log_steps : int
        Batches between two training rows of the history.
    device : str
        "auto" (a GPU if there is one) or "cpu".
    """

    seed: CountFrom0 = 1
    epochs: Count = 3
    max_steps: Count | None = None
    batch_size: Count = 128
    learning_rate: Positive = 2e-3
    weight_decay: NotNegative = 0.01
    warmup_fraction: WarmupFraction = 0.1
    gradient_clip: Positive = 1.0
    validation_fraction: InnerShare = 0.2
    flip_columns: bool = True
    shuffled_labels: bool = False
    average_decay: InnerShare | None = None
    log_steps: Count = 20
    device: Literal["auto", "cpu"] = "auto"
