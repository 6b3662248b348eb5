"""What a model is made of: layers, shapes, parameters and hyperparameters."""

from __future__ import annotations

from typing import Any

import pandas as pd
from torch import nn

from shutterless.models.inputs import DetectorModel

LAYER_COLUMNS = ("layer", "type", "shape", "weights", "biases", "parameters")


def layer_table(model: nn.Module) -> pd.DataFrame:
    """List the layers that hold parameters.

    Returns
    -------
    DataFrame
        ``layer`` (name), ``type``, ``shape`` (of the weights, e.g. "4 × 3"), and the numbers of ``weights``, ``biases``
        and all ``parameters``; a parameter that two layers share is counted where it first appears.
    """
    rows, seen = [], set()
    for name, module in model.named_modules():
        own = {key: p for key, p in module.named_parameters(recurse=False) if id(p) not in seen}
        seen |= {id(p) for p in own.values()}
        if own:
            rows.append(_layer_row(name, module, own))
    return pd.DataFrame(rows, columns=list(LAYER_COLUMNS))


def _layer_row(name: str, module: nn.Module, own: dict[str, nn.Parameter]) -> dict[str, Any]:
    biases = sum(p.numel() for key, p in own.items() if "bias" in key)
    total = sum(p.numel() for p in own.values())
    shapes = [" × ".join(map(str, p.shape)) for key, p in own.items() if "bias" not in key]
    return {
        "layer": name,
        "type": type(module).__name__,
        "shape": ", ".join(shapes),
        "weights": total - biases,
        "biases": biases,
        "parameters": total,
    }


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers in a model: weights and biases, shared ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def hyperparameters(model: DetectorModel) -> dict[str, Any]:
    """Hyperparameters under ``arch.*`` and ``train.*`` (the latter only for a trained model)."""
    config = model.config
    arch = {f"arch.{name}": getattr(config, name) for name in config.arch_names()}
    return {**arch, **{f"train.{name}": value for name, value in config.training.items()}}
