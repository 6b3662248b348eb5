"""How a combined detector is trained. Imported before torch is, by the commands that read it from a file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shutterless.models.training.settings import TrainingSettings
from shutterless.pipeline.settings import Count, CountFrom0, InnerShare, NotNegative, Positive, settings_class


class CombinedSettingsError(ValueError):
    """Settings with which no combined detector can be trained."""


@settings_class(CombinedSettingsError)
class CombinedSettings:
    """How the networks of a combined detector are trained; its forest has settings of its own.

    Parameters
    ----------
    n_networks : int
        Networks of other seeds whose log-odds are averaged.
    asked_per_hour : float
        Triggers without an event, per amplifier-hour, that the forest passes on to the networks: those it ranks
        highest. It bounds what networks cost, and makes the hardest negatives their examples.
    alarms_per_hour : float
        The epoch is kept that finds the most events at this rate of false alarms on the fields held back.
    folds : int
        Forests by which triggers are ranked that the networks learn from; each trigger by one that never saw its field.
    epochs, batch_size : int
    learning_rate, weight_decay, average_decay : float
        As `shutterless.models.training.settings.TrainingSettings`.
    seed : int
    """

    n_networks: Count = 2
    asked_per_hour: Positive = 20_000.0
    alarms_per_hour: Positive = 50.0
    folds: Annotated[int, Field(ge=2)] = 3
    epochs: Count = 4
    batch_size: Count = 256
    learning_rate: Positive = 1.5e-3
    weight_decay: NotNegative = 0.05
    average_decay: InnerShare = 0.998
    seed: CountFrom0 = 1

    def training(self, number: int) -> TrainingSettings:
        """Settings of the training of one of the networks."""
        return TrainingSettings(
            seed=self.seed + number,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            average_decay=self.average_decay,
            warmup_fraction=0.05,
            log_steps=50,
        )
