"""Build a new detector of a named family, or load a saved one."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModel
from transformers.utils import SAFE_WEIGHTS_NAME

from shutterless.models.cnn import CnnDetector
from shutterless.models.forest.forest import COMBINED_TYPE, FOREST_TYPE
from shutterless.models.inputs import DetectorModel
from shutterless.models.mlp import MlpDetector
from shutterless.models.transformer import TransformerDetector
from shutterless.pipeline.context.features import CONTEXT_FEATURES
from shutterless.pipeline.events.kinds import KINDS
from shutterless.pipeline.tokens import TokenGrid

FAMILIES: dict[str, type[DetectorModel]] = {
    "transformer": TransformerDetector,
    "cnn": CnnDetector,
    "mlp": MlpDetector,
}
for _detector in FAMILIES.values():
    AutoModel.register(_detector.config_class, _detector)
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})


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
    context: bool = False,
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
    context : bool
        Whether it sees the context of a trigger beside its strip.
    seed : int
        Fixes the weights. The caller's own random state is left as it was.
    """
    if family not in FAMILIES:
        raise ModelError(f"unknown model family {family!r}; choose one of {sorted(FAMILIES)}")
    arch = dict(arch or {})
    _check_arch(family, arch)
    cls: Any = FAMILIES[family]
    config = cls.config_class(
        grid=asdict(grid or TokenGrid()), kinds=list(kinds), loss_weights=dict(loss_weights or {}),
        context_names=list(CONTEXT_FEATURES) if context else [], **arch,
    )  # fmt: skip
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
        Where `save_pretrained` put ``config.json`` and ``model.safetensors``.
    **kwargs
        Passed on to `from_pretrained`, e.g. ``attn_implementation="eager"``.

    Raises
    ------
    ModelError
        If there is no model, its weights are damaged, or the folder holds a pickle anywhere (`refuse_pickles`).
    """
    folder = Path(folder)
    cls = _saved_family(folder)
    refuse_pickles(folder)
    if not (folder / SAFE_WEIGHTS_NAME).is_file():
        raise ModelError(f"{folder} has no {SAFE_WEIGHTS_NAME}; copy the whole folder written by save_pretrained")
    try:
        _check_weights_fit(cls, folder)
        return cls.from_pretrained(folder, local_files_only=True, use_safetensors=True, **kwargs).eval()
    except SafetensorError as error:
        raise ModelError(
            f"{folder / SAFE_WEIGHTS_NAME} is not a safetensors file ({error}); save the model again with "
            "save_pretrained"
        ) from error


def _check_weights_fit(cls: Any, folder: Path) -> None:
    """Refuse weights of another architecture than that of ``config.json``, of which transformers prints pages.

    Raises
    ------
    ModelError
        If a layer is missing, unknown, or has another shape.
    """
    config = cls.config_class.from_pretrained(folder)
    with torch.device("meta"):  # shapes alone
        wanted = {name: tuple(values.shape) for name, values in cls(config).state_dict().items()}
    with safe_open(folder / SAFE_WEIGHTS_NAME, framework="pt") as stored:
        found = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    wrong = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if wrong:
        first = wrong[0]
        raise ModelError(
            f"the weights in {folder / SAFE_WEIGHTS_NAME} do not fit its config.json: {first} has shape "
            f"{found.get(first, 'none')}, the config makes it {wanted.get(first, 'none')} ({len(wrong)} of "
            f"{len(wanted)} differ); copy both files of one model"
        )


def refuse_pickles(folder: str | Path) -> None:
    """Refuse a folder that holds a pickle anywhere, recognised by its suffix: opening one runs the code in it.

    Valid safetensors beside it make no difference, because another program may open the pickle.

    Raises
    ------
    ModelError
        If there are any; the message names them.
    """
    files = (path for path in Path(folder).rglob("*") if path.suffix.lower() in PICKLE_SUFFIXES)
    found = sorted(path.relative_to(folder).as_posix() for path in files)
    if found:
        raise ModelError(
            f"{folder} holds pickles {found}; pickles can run code and are refused, also beside {SAFE_WEIGHTS_NAME}: "
            "delete them, or save the model again with save_pretrained into an empty folder"
        )


def _saved_family(folder: Path) -> type[DetectorModel]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"no model in {folder}: config.json is missing; give a folder written by save_pretrained")
    found = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    if found in (FOREST_TYPE, COMBINED_TYPE):
        raise ModelError(
            f"{folder} holds a forest, which scores the triggers of frames and no strips; it searches and is "
            "evaluated, but is not served, registered or explained: name a transformer, CNN or MLP"
        )
    for cls in FAMILIES.values():
        if cls.config_class.model_type == found:
            return cls
    known = {name: cls.config_class.model_type for name, cls in FAMILIES.items()}
    raise ModelError(f"{path} has model_type {found!r}, which is none of the families {known}")
