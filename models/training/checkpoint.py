"""Store the state of a training in one safetensors file: tensors, and JSON in its header. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from shutterless.pipeline.files import written_whole


class CheckpointError(ValueError):
    """A checkpoint from which a training cannot be resumed."""


def write_checkpoint(
    path: Path, recipe: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]
) -> None:
    """Write a checkpoint completely or not at all, in place of the last one.

    Parameters
    ----------
    path : Path
    recipe : mapping
        All settings that determine the training; `read_checkpoint` refuses others.
    tensors, values : mapping
        The state: tensors by name, and values that JSON can hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as partial:
        save_file(copies, partial, metadata={"recipe": json.dumps(recipe), "values": json.dumps(values)})


def read_checkpoint(path: Path, recipe: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a checkpoint that `write_checkpoint` wrote.

    Raises
    ------
    CheckpointError
        If the file is damaged, or was made with another recipe; the differences are shown.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no dict
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no checkpoint ({error}); remove it to begin anew") from error
    if not {"recipe", "values"} <= metadata.keys():
        raise CheckpointError(f"{path} holds no training state; remove it to begin anew")
    differences = _differences(json.loads(metadata["recipe"]), json.loads(json.dumps(recipe)))
    if differences:
        raise CheckpointError(f"{path} was made with other settings: {'; '.join(differences)}; remove it to begin anew")
    return tensors, json.loads(metadata["values"])


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line ``name was x, now y`` for each difference."""
    lines: list[str] = []
    for key in sorted(found.keys() | wanted.keys()):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key} was {old!r}, now {new!r}")
    return lines
