"""Hyperparameters of a pretraining and of its masking. Imported before torch is, by the commands that read them."""

from __future__ import annotations

from shutterless.models.training.settings import WarmupFraction
from shutterless.pipeline.settings import Count, CountFrom0, InnerShare, NotNegative, Positive, Share, settings_class


class PretrainingError(ValueError):
    """Settings or strips with which no pretraining can run."""


class MaskingError(ValueError):
    """Shares and lengths with which no patch can be hidden."""


@settings_class(PretrainingError)
class PretrainingSettings:
    """Hyperparameters of a pretraining (those of the encoder and of the masking are the model's own).

    Parameters
    ----------
    seed : int
        Fixes the order of the strips, the hidden patches, mirroring and dropout.
    epochs : int
        Largest number of passes over the training strips; every pass hides other patches.
    patience : int
        Stop after this number of passes in which the validation ratio did not fall by ``least_gain``.
    least_gain : float
    batch_size : int
        Strips in a batch.
    learning_rate, weight_decay, warmup_fraction : float
        Settings of AdamW; the rate rises linearly over the first fraction of the steps and falls along a cosine to 0.
    gradient_clip : float
        Largest norm of the gradient.
    flip_columns : bool
        Mirror training strips left-right at random.
    device : str
        "auto" (a GPU if there is one) or a torch device.
    """

    seed: CountFrom0 = 1
    epochs: Count = 12
    patience: Count = 3
    least_gain: NotNegative = 1e-4
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.01
    warmup_fraction: WarmupFraction = 0.05
    gradient_clip: Positive = 1.0
    flip_columns: bool = True
    device: str = "auto"


@settings_class(MaskingError)
class Masking:
    """Share of hidden patches, and the length of their runs.

    Parameters
    ----------
    share : float
        Share of the patches with a valid pixel; at least one of every strip is hidden and at least one is left.
    run_share : float
        Share of the strips whose patches are hidden in runs of neighbours; in the others they are hidden one by one. A
        single hidden patch has visible neighbours, from which anything longer than a patch can be predicted.
    run_patches : int
        Patches in a run.
    """

    share: InnerShare = 0.5
    run_share: Share = 0.5
    run_patches: Count = 4
