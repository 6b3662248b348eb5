"""Type of the box detector, and hyperparameters of its training. Imported before torch is."""

from __future__ import annotations

from shutterless.models.training.settings import TrainingError, WarmupFraction
from shutterless.pipeline.settings import Count, CountFrom0, NotNegative, Positive, Share, settings_class

BOX_TYPE = "shutterless-boxes"  # its `model_type`
LEAST_SHOWN_SCORE = 0.3  # of a box in what people are shown


@settings_class(TrainingError)
class BoxTrainingSettings:
    """Hyperparameters of a training.

    Parameters
    ----------
    seed : int
        Fixes the order of the tiles, how they are turned, and weights that are drawn.
    epochs : int
        Passes over the tiles with boxes.
    batch_size : int
    learning_rate, weight_decay, warmup_fraction, gradient_clip : float
        Settings of AdamW; the rate rises linearly over the first fraction of the steps and falls along a cosine to 0.
    empty_share : float
        Share of tiles without a box in an epoch, at most; they are the hardest of the last pass, and others at random.
    turn : bool
        Whether tiles are turned by quarters at random; not for frames, where rows are time. All are mirrored.
    """

    seed: CountFrom0 = 1
    epochs: Count = 60
    batch_size: Count = 8
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.02
    warmup_fraction: WarmupFraction = 0.1
    gradient_clip: Positive = 1.0
    empty_share: Share = 0.5
    turn: bool = True
