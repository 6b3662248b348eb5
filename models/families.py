"""The families of detectors by name: build a fresh one, load a saved one."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import SAFE_WEIGHTS_NAME

from shutterless.models.cnn import CnnDetector
from shutterless.models.inputs import DetectorModel
from shutterless.models.mlp import MlpDetector
from shutterless.models.transformer import TransformerDetector
from shutterless.pipeline.events import KINDS
from shutterless.pipeline.tokens import TokenGrid

FAMILIES: dict[str, type[DetectorModel]] = {
    "transformer": TransformerDetector,
    "cnn": CnnDetector,
    "mlp": MlpDetector,
}


class ModelError(ValueError):
    """A model that cannot be built or loaded."""


def family_of(model: DetectorModel) -> str:
    """Name of a model's family."""
    return next(name for name, cls in FAMILIES.items() if isinstance(model, cls))


def build_model(
    family: str,
    grid: TokenGrid | None = None,
    arch: Mapping[str, Any] | None = None,
    *,
    kinds: Sequence[str] = KINDS,
    loss_weights: Mapping[str, float] | None = None,
    seed: int = 0,
) -> DetectorModel:
    """Build a model with random weights.

    Parameters
    ----------
    family : str
        A name in `FAMILIES`.
    grid : TokenGrid, optional
        The grid of its strips; the default grid if left out.
    arch : mapping, optional
        Hyperparameters of the architecture that differ from the family's defaults.
    kinds : sequence of str
        Names of the classes.
    loss_weights : mapping, optional
        Weights of the loss terms that differ from the defaults.
    seed : int
        Fixes the weights. The caller's own random state is left as it was.
    """
    if family not in FAMILIES:
        raise ModelError(f"unknown model family {family!r}; choose one of {sorted(FAMILIES)}")
    arch = dict(arch or {})
    _check_arch(family, arch)
    cls: Any = FAMILIES[family]
    config = cls.config_class(
        grid=(grid or TokenGrid()).to_dict(), kinds=list(kinds), loss_weights=dict(loss_weights or {}), **arch
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cls(config).eval()


def _check_arch(family: str, arch: Mapping[str, Any]) -> None:
    known = FAMILIES[family].config_class.arch_names()
    for name in arch:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ModelError(f"{family} has no hyperparameter {name!r}; did you mean {nearest!r}? It has {known}")


def load_model(folder: str | Path, **kwargs: Any) -> DetectorModel:
    """Load a saved model of any family, ready for scoring.

    Parameters
    ----------
    folder : path
        Where `save_pretrained` put ``config.json`` and ``model.safetensors``. Pickled weights are refused: loading them
        would run whatever code they hold.
    **kwargs
        Passed on to `from_pretrained`, e.g. ``attn_implementation="eager"``.
    """
    folder = Path(folder)
    cls = _saved_family(folder)
    _check_weights(folder)
    return cls.from_pretrained(folder, local_files_only=True, **kwargs).eval()


def _saved_family(folder: Path) -> type[DetectorModel]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"no model in {folder}: config.json is missing; give a folder written by save_pretrained")
    found = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    for cls in FAMILIES.values():
        if cls.config_class.model_type == found:
            return cls
    known = {name: cls.config_class.model_type for name, cls in FAMILIES.items()}
    raise ModelError(f"{path} has model_type {found!r}, which is none of the families {known}")


def _check_weights(folder: Path) -> None:
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{folder} holds pickled weights {pickles} but no {SAFE_WEIGHTS_NAME}; pickles can run code and are "
            "refused: save the model again with save_pretrained"
        )
    raise ModelError(f"{folder} has no {SAFE_WEIGHTS_NAME}; copy the whole folder written by save_pretrained")
