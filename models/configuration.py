"""Configurations of detectors: token grid, kinds, calibration, and the sizes of each family."""

from __future__ import annotations

from dataclasses import asdict, fields
from importlib import import_module
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from shutterless.pipeline.events.kinds import KINDS
from shutterless.pipeline.tokens import STAGE1_FEATURES, TokenGrid

# relative weight of the four terms of the loss: the event decision counts most, a wrong duration least
LOSS_WEIGHTS = {"event": 1.0, "kind": 0.5, "onset": 1.0, "log2_duration": 0.1}


class DetectorConfig(PreTrainedConfig):
    """Settings that all families share.

    Parameters
    ----------
    grid : dict
        Fields of the `TokenGrid` of the strips that the model was made for; `token_grid` returns the `TokenGrid`.
    kinds : list of str
        Names of the classes, in the order of ``kind_logits``.
    feature_names : list of str
        Names of the stage-1 features, in the order of ``features``.
    context_names : list of str
        Names of the numbers that describe a trigger's surroundings, in the order of ``numbers``; empty for a model that
        sees strips alone.
    loss_weights : dict
        Weight of each term of the loss.
    calibration_slope, calibration_intercept : float
        Platt scaling: probability = sigmoid(slope × event_logit + intercept).
    training : dict
        Hyperparameters of the training that made the weights; empty before training.
    """

    model_type = "shutterless-detector"

    grid: dict | None = None
    kinds: list | None = None
    feature_names: list | None = None
    context_names: list | None = None
    loss_weights: dict | None = None
    calibration_slope: float = 1.0
    calibration_intercept: float = 0.0
    training: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.grid = asdict(self.token_grid)
        self.kinds = list(self.kinds or KINDS)
        self.feature_names = list(self.feature_names or STAGE1_FEATURES)
        self.context_names = list(self.context_names or [])
        self.loss_weights = {**LOSS_WEIGHTS, **(self.loss_weights or {})}
        self.training = dict(self.training or {})
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Configuration from the content of ``config.json``; ``AutoModel``, which asks next, then knows its model."""
        import_module("shutterless.models.families")
        return super().from_dict(config_dict, **kwargs)

    @property
    def token_grid(self) -> TokenGrid:
        """The grid that strips must be cut with."""
        return TokenGrid(**(self.grid or {}))

    @classmethod
    def arch_names(cls) -> list[str]:
        """Names of the hyperparameters of this family's architecture."""
        shared = {f.name for f in fields(DetectorConfig)}
        return [f.name for f in fields(cls) if f.name not in shared]


class TransformerConfig(DetectorConfig):
    """Sizes of the transformer.

    Parameters
    ----------
    hidden_size, n_layers, n_heads, mlp_size : int
        Width of a token, encoder layers, attention heads, and width of the gated feed-forward part.
    dropout : float
        Dropout of embeddings, attention and feed-forward part while training.
    rope_theta : float
        Base of the rotary position frequencies. Positions are token indices (0 to a few tens), so a small base spreads
        the frequencies over the lengths that occur. The usual 10,000 and more suit texts of thousands of words.
    """

    model_type = "shutterless-transformer"

    hidden_size: int = 96
    n_layers: int = 4
    n_heads: int = 4
    mlp_size: int = 192
    dropout: float = 0.05
    rope_theta: float = 100.0


class CnnConfig(DetectorConfig):
    """Sizes of the convolutional network.

    Parameters
    ----------
    channels : list of int
        Channels after each convolution along time.
    strides : list of int
        Stride of each convolution.
    kernel_rows : int
        Length of every kernel in binned rows of its input (odd).
    hidden_size : int
        Width of the layer that joins the pooled strip with its static profile.
    dropout : float
        Dropout of that layer while training.
    """

    model_type = "shutterless-cnn"

    channels: list | None = None
    strides: list | None = None
    kernel_rows: int = 7
    hidden_size: int = 128
    dropout: float = 0.05

    def __post_init__(self, **kwargs: Any) -> None:
        self.channels = list(self.channels or (64, 96, 128, 128))
        self.strides = list(self.strides or (1, 2, 4, 2)[: len(self.channels)])
        if len(self.channels) != len(self.strides):
            raise ValueError(f"cnn: {len(self.channels)} channels but {len(self.strides)} strides; give one per layer")
        if self.kernel_rows % 2 == 0:
            raise ValueError(f"cnn: kernel_rows {self.kernel_rows} is even; give an odd number, e.g. 5 or 7")
        super().__post_init__(**kwargs)


class MlpConfig(DetectorConfig):
    """Sizes of the multi-layer perceptron.

    Parameters
    ----------
    hidden_sizes : list of int
        Widths of the hidden layers; an empty list is the perceptron.
    dropout : float
        Dropout after each hidden layer while training.
    """

    model_type = "shutterless-mlp"

    hidden_sizes: list | None = None
    dropout: float = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        # None means the default; an empty list is a choice of its own
        self.hidden_sizes = [128, 64] if self.hidden_sizes is None else list(self.hidden_sizes)
        super().__post_init__(**kwargs)


for _config in (TransformerConfig, CnnConfig, MlpConfig):
    AutoConfig.register(_config.model_type, _config)
