"""Configurations of detectors: token grid, kinds, calibration, and the sizes of each family."""

from __future__ import annotations

from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from shutterless.pipeline.events.kinds import KINDS
from shutterless.pipeline.stored_files import read_json
from shutterless.pipeline.tokens import STAGE1_FEATURES, TokenGrid

# relative weight of the four terms of the loss: the event decision counts most, a wrong duration least
LOSS_WEIGHTS = {"event": 1.0, "kind": 0.5, "onset": 1.0, "log2_duration": 0.1}


MOST_SIZE, MOST_LAYERS = 1 << 16, 512  # of a layer, and of a network: larger ones fill the memory
_MOST_STRIP, _MOST_NAMES = 1 << 22, 1000  # numbers of a strip; names of kinds and features
_DTYPES = ("float32", "float64", "float16", "bfloat16")  # of weights
_FOREIGN = ("auto_map", "quantization_config")  # with these, transformers imports code that others name


class ConfigurationError(ValueError):
    """A stored configuration that is not one of a model of ours."""


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


def read_config(folder: str | Path, cls: type[DetectorConfig]) -> DetectorConfig:
    """Read the configuration of a saved model; its sizes are checked before anything is built.

    Raises
    ------
    ConfigurationError
        If a value cannot be that of such a model.
    StoredFileError
        If it is no JSON object.
    """
    path = Path(folder) / CONFIG_NAME
    values = read_json(path)
    try:
        _check_values(values, cls)
        return cls.from_dict(values)  # type: ignore[no-any-return]
    except Exception as error:  # transformers raises what it likes about values that it knows
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(f"{path} is not that of a {cls.model_type}: {reason}") from error


def _check_values(values: dict[str, Any], cls: type[DetectorConfig]) -> None:
    """Refuse sizes that no model has, and values of another kind."""
    for name in _FOREIGN:
        if name in values:
            raise ValueError(f"{name} would bring code of its own")
    defaults = {field.name: field.default for field in fields(cls)}
    for name in (*cls.arch_names(), "calibration_slope", "calibration_intercept"):
        _check_value(name, values.get(name, defaults[name]), defaults[name])
    for name in ("kinds", "feature_names", "context_names"):
        names = values.get(name) or []
        if not isinstance(names, list) or len(names) > _MOST_NAMES or not all(isinstance(one, str) for one in names):
            raise ValueError(f"{name} is no list of at most {_MOST_NAMES} names")
    if values.get("dtype", "float32") not in _DTYPES:
        raise ValueError(f"dtype = {values['dtype']!r:.100} is none of {', '.join(_DTYPES)}")
    grid = TokenGrid(**(values.get("grid") or {}))
    if grid.n_tokens * grid.patch_size > _MOST_STRIP:
        raise ValueError(f"a strip of {grid} holds more than {_MOST_STRIP:,} numbers")


def _check_value(name: str, value: Any, default: Any) -> None:
    """Refuse a size or a number that is not of the kind of its default; lists are of sizes."""
    if isinstance(default, float):
        is_fine = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    elif isinstance(default, int):
        is_fine = _is_size(value) and (name != "n_layers" or value <= MOST_LAYERS)
    else:
        is_fine = value is None or (isinstance(value, list) and len(value) <= MOST_LAYERS and all(map(_is_size, value)))
    if not is_fine:
        raise ValueError(f"{name} = {value!r:.100} is no value of it (sizes are 1 to {MOST_SIZE:,})")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_SIZE


for _config in (TransformerConfig, CnnConfig, MlpConfig):
    AutoConfig.register(_config.model_type, _config)
