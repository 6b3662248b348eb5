"""Describe a model for MLflow from its configuration: inputs and outputs. Refuse models that bring code along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from shutterless.models.boxes.settings import BOX_TYPE, LEAST_SHOWN_SCORE
from shutterless.pipeline.stored_files import read_json, refuse_pickles
from shutterless.pipeline.tokens import STAGE1_FEATURES, STRIP_ARRAYS, STRIPS_AT_ONCE, TokenGrid

LOADER_MODULE = "shutterless.workflows.pyfunc_loader"
PARAMETERS = {"batch_size": STRIPS_AT_ONCE, "false_alarms_per_hour": None}
BOX_PARAMETERS = {"least_score": LEAST_SHOWN_SCORE}
BOX_INPUTS = ("image", "path")
_EXAMPLE_PX = 16  # side of the image of an example
# entries of MLmodel that would make MLflow run a model's own code, which goes on the path before any package
_FOREIGN_CODE = ("code", "python_model", "model_code_path", "cloudpickle_version", "artifacts")


def _input_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of one strip, as the model in a folder takes them, in the order of `StripBatch`."""
    config = read_json(Path(folder) / "config.json")
    grid = TokenGrid(**(config.get("grid") or {}))
    return {
        "patches": (grid.n_tokens, grid.patch_size),
        "context": (grid.n_tokens, grid.patch_rows),
        "profile": (grid.profile_size,),
        "features": (len(config.get("feature_names") or STAGE1_FEATURES),),
        "mask": (grid.n_tokens,),
    }


def finds_boxes(folder: str | Path) -> bool:
    """Whether the model in a folder is a detector of boxes, which takes images and no strips."""
    return bool(read_json(Path(folder) / "config.json").get("model_type") == BOX_TYPE)


def example_input(folder: str | Path) -> dict[str, np.ndarray]:
    """One strip of unit-variance noise above a flat sky, or an image of it, rounded to stay short as text."""
    rng = np.random.default_rng(0)
    if finds_boxes(folder):
        return {"image": rng.normal(size=(_EXAMPLE_PX, _EXAMPLE_PX)).round(2).astype(np.float32)}
    arrays: dict[str, np.ndarray] = {}
    for name, shape in _input_shapes(folder).items():
        if name == "mask":
            arrays[name] = np.ones((1, *shape), dtype=np.bool_)
        elif name == "patches":
            arrays[name] = rng.normal(size=(1, *shape)).round(2).astype(np.float32)
        else:
            arrays[name] = np.zeros((1, *shape), dtype=np.float32)
    return arrays


def pyfunc_signature() -> dict[str, Any]:
    """Signature of a logged detector of strips, as ``mlflow.models.ModelSignature.from_dict`` takes it.

    A request holds the arrays of strips or a path, so each column is optional. The arrays are of any type, since both
    batches and one strip a row are taken, for which MLflow has no common type. The model itself checks shapes and
    shows both where they differ. A tensor signature would demand all five arrays and refuse a path.
    """
    from shutterless.models.scoring import SCORE_COLUMNS  # imports torch, which some searches do not need

    columns = [{"type": "any", "name": name, "required": False} for name in STRIP_ARRAYS]
    columns += [{"type": "string", "name": "path", "required": False}]
    columns += [{"type": "any", "name": "quadrant", "required": False}]
    types = {"batch_size": "long", "false_alarms_per_hour": "double"}
    params = [
        {"name": name, "default": default, "shape": None, "type": types[name]} for name, default in PARAMETERS.items()
    ]
    outputs = [{"type": "string" if name == "kind" else "double", "name": name} for name in SCORE_COLUMNS]
    return {"inputs": json.dumps(columns), "outputs": json.dumps(outputs), "params": json.dumps(params)}


def box_signature() -> dict[str, Any]:
    """Signature of a logged detector of boxes: images or paths of files in, a row for each box out."""
    from shutterless.models.boxes.find import FOUND_COLUMNS  # imports torch

    types = {"image": "long", "kind": "string", "group": "long"}
    params = [
        {"name": name, "default": default, "shape": None, "type": "double"} for name, default in BOX_PARAMETERS.items()
    ]
    kinds = zip(("any", "string"), BOX_INPUTS, strict=True)
    inputs = [{"type": kind, "name": name, "required": False} for kind, name in kinds]
    outputs = [{"type": types.get(name, "double"), "name": name} for name in ("image", *FOUND_COLUMNS)]
    return {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": json.dumps(params)}


def model_signature(mlflow: Any, folder: str | Path) -> Any:
    """``mlflow.models.ModelSignature`` of a detector: strips, images or paths of files in, a table out.

    Parameters
    ----------
    mlflow : module
        As loaded by `shutterless.workflows.tracking.tracking`, the only module that imports it.
    folder : path
        Of the model.
    """
    stored = box_signature() if finds_boxes(folder) else pyfunc_signature()
    return mlflow.models.ModelSignature.from_dict(stored)


def model_metadata(folder: str | Path) -> dict[str, Any]:
    """Metadata of a detector in ``MLmodel``: its kind, and the shapes of one strip's arrays, or the names of boxes."""
    config = read_json(Path(folder) / "config.json")
    if finds_boxes(folder):
        return {"family": BOX_TYPE, "kinds": list(config.get("kinds") or ())}
    shapes = {name: list(shape) for name, shape in _input_shapes(folder).items()}
    return {"family": str(config.get("model_type", "")), "strip_shapes": shapes}


def has_signature(folder: str | Path) -> bool:
    """Whether the model folder lies in a logged model with a signature; those of older versions have none."""
    path = Path(folder).parent.parent / "MLmodel"
    return path.is_file() and any(line.startswith("signature:") for line in path.read_text("utf-8").splitlines())


def refuse_foreign_code(mlflow: Any, folder: str | Path) -> None:
    """Refuse a downloaded model that brings code along. Only text files are read, so none of that code runs.

    Parameters
    ----------
    mlflow : module
    folder : path
        Of a model that MLflow downloaded, with the file ``MLmodel``.

    Raises
    ------
    ModelError
        If its ``MLmodel`` names another loader, flavour or code, or a pickle lies anywhere in it.
    """
    from shutterless.models.families import ModelError  # imports torch, which some searches do not need

    refuse_pickles(folder)
    flavors = mlflow.models.Model.load(str(folder)).flavors
    own = flavors.get("python_function", {})
    wrong = [f"the flavour {name}" for name in sorted(flavors) if name != "python_function"]
    if own.get("loader_module") != LOADER_MODULE:
        wrong.append(f"the loader {own.get('loader_module')}")
    wrong += [f"{name} = {own[name]!r}" for name in _FOREIGN_CODE if own.get(name)]
    if wrong:
        raise ModelError(
            f"{folder}: its MLmodel names {', '.join(wrong)}, where shutterless writes {LOADER_MODULE} alone; loading "
            "it could run code of its own and is refused: register the folder with config.json and model.safetensors"
        )
