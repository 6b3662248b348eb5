"""Describe a model: layers, shapes, parameters and hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from torch import nn

from shutterless.models.inputs import DetectorModel
from shutterless.models.mlp import PlainMlp
from shutterless.models.tasks import Reading
from shutterless.pipeline.tokens import TokenGrid

# stored with the hyperparameters of a training, but results of it
FOUND_IN_TRAINING = ("best_epoch", "n_strips")
TASK_COLUMNS = ("reading", "task", "outputs", "last activation", "loss", "label")
_RIGHT = ("weights", "biases", "parameters", "outputs", "weight")
LAYER_COLUMNS = ("layer", "type", "shape", "weights", "biases", "parameters")


def layer_table(model: nn.Module) -> pd.DataFrame:
    """List the layers that hold parameters.

    Returns
    -------
    DataFrame
        ``layer`` (name), ``type``, ``shape`` (of the weights, e.g. "4 × 3"), and the numbers of ``weights``, ``biases``
        and all ``parameters``; a parameter that two layers share counts where it first appears.
    """
    rows, counted = [], set()
    for name, module in model.named_modules():
        own = {key: p for key, p in module.named_parameters(recurse=False) if id(p) not in counted}
        counted |= {id(p) for p in own.values()}
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


def task_table(readings: Mapping[str, Reading]) -> pd.DataFrame:
    """List the readings of heads with output size, activation and loss of each (`TASK_COLUMNS`)."""
    rows = [
        (name, reading.task.name, reading.n_outputs, reading.task.activation, _loss_text(reading), reading.task.labels)
        for name, reading in readings.items()
    ]
    return pd.DataFrame(rows, columns=list(TASK_COLUMNS))


def _loss_text(reading: Reading) -> str:
    return f"{reading.loss_name} (β {reading.beta:g})" if reading.loss_name == "smooth L1" else reading.loss_name


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters: weights and biases, shared ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def hyperparameters(model: DetectorModel) -> dict[str, Any]:
    """Hyperparameters under ``arch.*`` and ``train.*`` (the latter only for a trained model)."""
    config = model.config
    arch = {f"arch.{name}": getattr(config, name) for name in config.arch_names()}
    return {**arch, **{f"train.{name}": value for name, value in config.training.items()}}


def describe_detector(model: DetectorModel) -> str:
    """Describe inputs, parameters, heads and hyperparameters of a detector in text."""
    config = model.config
    tasks = task_table(model.head.readings)
    tasks.insert(5, "weight", [f"{config.loss_weights[name]:g}" for name in tasks["reading"]])
    known = hyperparameters(model)
    found = {name: known.pop(f"train.{name}") for name in FOUND_IN_TRAINING if f"train.{name}" in known}
    groups = {
        kind: {name.split(".", 1)[1]: value for name, value in known.items() if name.startswith(f"{kind}.")}
        for kind in ("arch", "train")
    }
    parts = [
        f"input: {_input_text(model.grid)}, and {len(config.feature_names)} features of stage 1",
        _parameter_text(model),
        "heads: output size, last activation and loss follow from the task\n\n" + _columns_text(tasks),
        "hyperparameters of the architecture: chosen, they determine which parameters there are\n\n"
        + _pairs_text(groups["arch"]),
    ]
    if groups["train"]:
        text = "hyperparameters of the training: chosen, they determine how the parameters are learned\n\n"
        parts.append(text + _pairs_text(groups["train"]))
    if found:
        parts.append("found in training\n\n" + _pairs_text(found))
    return "\n\n".join(parts)


def describe_mlp(sizes: Sequence[int], task: str) -> str:
    """Describe in text the parameters that a multi-layer perceptron of given layer sizes has to learn for a task."""
    network = PlainMlp(sizes, task)
    name = "–".join(map(str, sizes))
    return "\n\n".join(
        [
            f"MLP {name}: {count_parameters(network):,} parameters",
            _parameter_text(network),
            "head: output size, last activation and loss follow from the task\n\n"
            + _columns_text(task_table({"output": network.reading})),
            f"why: {network.reading.task.reason}",
        ]
    )


def _input_text(grid: TokenGrid) -> str:
    bins = " or ".join(map(str, grid.bins))
    shape = f"{grid.n_y} × {grid.n_columns} × {grid.n_rows}"
    return f"strips of {shape} (y, x, t) in {grid.n_tokens} tokens of {grid.patch_rows}, t in bins of {bins} rows"


def _parameter_text(model: nn.Module) -> str:
    """Table of the layers from input to output, the head last, with their sum."""
    layers = layer_table(model)
    in_head = layers["layer"].str.startswith("head.")
    layers = pd.concat([layers[~in_head], layers[in_head]])
    total = {"layer": "total", "type": "", "shape": "", **layers[["weights", "biases", "parameters"]].sum().to_dict()}
    layers = pd.concat([layers, pd.DataFrame([total])], ignore_index=True)
    for name in ("weights", "biases", "parameters"):
        layers[name] = [f"{value:,}" for value in layers[name]]
    layers.insert(4, "+", "+")
    layers.insert(6, "=", "=")
    *rows, last = _columns_text(layers, hidden=("+", "=")).splitlines()
    rule = "  " + "─" * (max(map(len, rows)) - 2)
    heading = "parameters: learned, weights + biases of each layer (shape: outputs × inputs)\n"
    return "\n".join([heading, *rows, rule, last])


def _columns_text(table: pd.DataFrame, hidden: Sequence[str] = ()) -> str:
    """A table in aligned columns, numbers flush right; columns in ``hidden`` have no heading."""
    columns = []
    for name in table.columns:
        cells = ["" if name in hidden else name, *map(str, table[name])]
        width = max(map(len, cells))
        columns.append([cell.rjust(width) if name in _RIGHT else cell.ljust(width) for cell in cells])
    return "\n".join(("  " + "  ".join(cells)).rstrip() for cells in zip(*columns, strict=True))


def _pairs_text(values: Mapping[str, Any]) -> str:
    width = max(map(len, values), default=0)
    return "\n".join(f"  {name.ljust(width)}  {value}" for name, value in values.items()) or "  none"
