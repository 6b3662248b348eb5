"""Build a new detector of a named family, or load a saved one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModel
from transformers.utils import SAFE_WEIGHTS_NAME

from shutterless.models.cnn import CnnDetector
from shutterless.models.configuration import ConfigurationError, read_config
from shutterless.models.forest.forest import COMBINED_TYPE, FOREST_TYPE
from shutterless.models.inputs import DetectorModel
from shutterless.models.mlp import MlpDetector
from shutterless.models.transformer import TransformerDetector
from shutterless.pipeline.context.features import CONTEXT_FEATURES
from shutterless.pipeline.events.kinds import KINDS
from shutterless.pipeline.stored_files import read_json, refuse_pickles
from shutterless.pipeline.tokens import TokenGrid

FAMILIES: dict[str, type[DetectorModel]] = {
    "transformer": TransformerDetector,
    "cnn": CnnDetector,
    "mlp": MlpDetector,
}
for _detector in FAMILIES.values():
    AutoModel.register(_detector.config_class, _detector)


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
        If there is no model, its configuration cannot be that of one, or its weights are damaged, do not fit or are not
        finite.
    StoredFileError
        If the folder holds a pickle anywhere (`refuse_pickles`), or ``config.json`` is no JSON object.
    """
    folder = Path(folder)
    cls = _saved_family(folder)
    refuse_pickles(folder)
    if not (folder / SAFE_WEIGHTS_NAME).is_file():
        raise ModelError(f"{folder} has no {SAFE_WEIGHTS_NAME}; copy the whole folder written by save_pretrained")
    try:
        config = read_config(folder, cls.config_class)
        _check_weights_fit(cls, config, folder)
        model = cls.from_pretrained(folder, config=config, local_files_only=True, use_safetensors=True, **kwargs).eval()
    except ConfigurationError as error:
        raise ModelError(str(error)) from error
    except SafetensorError as error:
        raise ModelError(
            f"{folder / SAFE_WEIGHTS_NAME} is not a safetensors file ({error}); save the model again with "
            "save_pretrained"
        ) from error
    _check_finite_weights(model, folder)
    return model


def _check_finite_weights(model: DetectorModel, folder: Path) -> None:
    """Refuse weights that are NaN or infinite: all scores would be."""
    for name, values in model.state_dict().items():
        if values.is_floating_point() and not values.isfinite().all():
            raise ModelError(
                f"{name} in {folder / SAFE_WEIGHTS_NAME} is not finite; train again, or copy the file again"
            )


def _check_weights_fit(cls: Any, config: Any, folder: Path) -> None:
    """Refuse weights of another architecture than that of ``config.json``, of which transformers prints pages.

    Raises
    ------
    ModelError
        If a layer is missing, unknown, or has another shape.
    """
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


def _saved_family(folder: Path) -> type[DetectorModel]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"no model in {folder}: config.json is missing; give a folder written by save_pretrained")
    found = read_json(path).get("model_type")
    if found in (FOREST_TYPE, COMBINED_TYPE):
        raise ModelError(
            f"{folder} holds a forest, which scores the triggers of frames and no strips; it searches and is "
            "evaluated, but is not served, registered or explained: name a transformer, CNN or MLP"
        )
    for cls in FAMILIES.values():
        if cls.config_class.model_type == found:
            return cls
    known = {name: cls.config_class.model_type for name, cls in FAMILIES.items()}
    raise ModelError(
        f"{path} has model_type {found!r}, which is none of the families {known}; a detector of boxes takes images and "
        "no strips: `shutterless boxes find`"
    )
