"""The forest: boosted trees that judge a trigger by its own numbers and its context, without its pixels.

It needs no torch, so a search with it starts as fast as one with the template bank. It is stored as arrays
(safetensors) and JSON; no pickle is written or read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field, FiniteFloat
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import expit, softmax

from shutterless.models.folder_readme import SEARCH_USE, write_readme
from shutterless.models.forest.trees import Trees
from shutterless.pipeline.context.features import CONTEXT_FEATURES
from shutterless.pipeline.files import give_umask_rights
from shutterless.pipeline.settings import SettingsError, settings_class, validate_settings
from shutterless.pipeline.stored_files import read_json, refuse_pickles

FOREST_TYPE = "shutterless-forest"
COMBINED_TYPE = "shutterless-combined"  # `shutterless.models.combined.combined`, which needs torch
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_EVENTS, _CLASSES = "events.", "classes."


class ForestError(ValueError):
    """A forest that cannot be read, or numbers that it does not know."""


@dataclass(frozen=True)
class Forest:
    """Trees that tell events from everything else, and trees that name the kind.

    Parameters
    ----------
    events : Trees
        One output, the log-odds of an event in the training mix.
    classes : Trees
        One output for each of ``kinds``.
    kinds : tuple of str
        Kinds of event that it names.
    features : tuple of str
        Numbers it was trained on, of `shutterless.pipeline.context.features.CONTEXT_FEATURES`.
    calibration : (float, float)
        Slope and intercept that turn log-odds into those of the training mix's held-back fields (Platt).
    """

    sees_context: ClassVar[bool] = True
    events: Trees
    classes: Trees
    kinds: tuple[str, ...]
    features: tuple[str, ...] = CONTEXT_FEATURES
    calibration: tuple[float, float] = (1.0, 0.0)

    def score(self, context: pd.DataFrame) -> pd.DataFrame:
        """Score triggers.

        Parameters
        ----------
        context : DataFrame
            From `shutterless.pipeline.context.features.measure_context`.

        Returns
        -------
        DataFrame
            ``event_logit``, ``probability`` (calibrated), ``kind`` and ``kind_probability``, in the order of the
            triggers.

        Raises
        ------
        ForestError
            If a number that it was trained on is missing.
        """
        missing = [name for name in self.features if name not in context]
        if missing:
            raise ForestError(f"the forest needs the numbers {missing}, which this version does not measure; train one")
        numbers = context[list(self.features)].to_numpy(dtype=np.float64)
        logit = self.events.sums(numbers)[:, 0]
        kind = softmax(self.classes.sums(numbers), axis=1)
        slope, intercept = self.calibration
        return pd.DataFrame(
            {
                "event_logit": logit,
                "probability": expit(slope * logit + intercept),
                "kind": pd.Series(np.array(self.kinds, dtype=object)[kind.argmax(axis=1)], dtype="str"),
                "kind_probability": kind.max(axis=1),
            }
        )

    @property
    def n_values(self) -> int:
        """Values of all nodes, the counterpart of the parameters of a network."""
        return len(self.events.value) + len(self.classes.value)

    def describe(self) -> str:
        """Sizes, kinds, calibration, and how often each number is compared, in lines of text."""
        compared = np.bincount(self.events.feature[self.events.feature >= 0], minlength=len(self.features))
        shares = compared / max(compared.sum(), 1)
        lines = [
            f"{len(self.events.root)} trees tell events ({len(self.events.value):,} nodes), {len(self.classes.root)} "
            f"name their kind: {', '.join(self.kinds)}",
            "probability = sigmoid({:.3f} x log-odds {:+.3f})".format(*self.calibration),
            "share of the comparisons of each number:",
        ]
        lines += [f"  {self.features[k]:<24} {100 * shares[k]:5.1f} %" for k in np.argsort(-shares, kind="stable")]
        return "\n".join(lines)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``README.md``; other files of the folder stay."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {**self.events.to_arrays(_EVENTS), **self.classes.to_arrays(_CLASSES)}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / _WEIGHTS)
        give_umask_rights(folder / _WEIGHTS)
        config = {
            "model_type": FOREST_TYPE,
            "kinds": list(self.kinds),
            "features": list(self.features),
            "calibration": list(self.calibration),
        }
        (folder / _CONFIG).write_text(json.dumps(config, indent=1))
        facts = {"kinds": ", ".join(self.kinds), "numbers": ", ".join(self.features)}
        write_readme(folder, "forest", f"{self.n_values:,} nodes", facts, SEARCH_USE)


def is_forest(folder: str | Path) -> bool:
    """Whether a folder holds a forest."""
    return _read_config(Path(folder)).get("model_type") == FOREST_TYPE


def is_combined(folder: str | Path) -> bool:
    """Whether a folder holds a forest and networks that judge together."""
    return _read_config(Path(folder)).get("model_type") == COMBINED_TYPE


def load_forest(folder: str | Path) -> Forest:
    """Read a forest that `Forest.save` wrote.

    Raises
    ------
    ForestError
        If there is none, its configuration is not that of one, or its weights are damaged.
    StoredFileError
        If the folder holds a pickle, or ``config.json`` is no JSON object.
    """
    folder = Path(folder)
    refuse_pickles(folder)
    config = _read_config(folder)
    if config.get("model_type") != FOREST_TYPE:
        raise ForestError(f"{folder} holds no forest: model_type is {config.get('model_type')!r}")
    try:
        arrays: Mapping[str, Any] = load_file(folder / _WEIGHTS)
        events, classes = (Trees.from_arrays(arrays, prefix) for prefix in (_EVENTS, _CLASSES))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ForestError(f"{folder / _WEIGHTS} is damaged ({error}); copy the whole folder again") from error
    try:
        values = validate_settings(_ForestConfig, config, str(folder / _CONFIG))
    except SettingsError as error:
        raise ForestError(f"{error}; copy the whole folder again") from error
    if max(events.n_features, classes.n_features) > len(values.features):
        raise ForestError(f"the trees in {folder} compare more than the {len(values.features)} numbers of {_CONFIG}")
    if len(events.base) != 1 or len(classes.base) != len(values.kinds):
        raise ForestError(f"the trees in {folder} have other outputs than the {len(values.kinds)} kinds of {_CONFIG}")
    return Forest(events, classes, values.kinds, values.features, values.calibration)


@settings_class()
class _ForestConfig:
    """What ``config.json`` of a forest holds."""

    model_type: str
    kinds: Annotated[tuple[str, ...], Field(min_length=1)]
    features: Annotated[tuple[str, ...], Field(min_length=1)]
    calibration: tuple[FiniteFloat, FiniteFloat]


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    return read_json(path) if path.is_file() else {}
