"""How MLflow's generic model format loads a logged detector: from safetensors, without pickle or mlflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.families import load_model
from shutterless.models.inputs import DetectorModel
from shutterless.models.scoring import score_strips
from shutterless.pipeline.tokens import StripBatch


class StripScorer:
    """A detector behind ``predict``, as MLflow wants it."""

    def __init__(self, model: DetectorModel) -> None:
        self.model = model

    def predict(self, model_input: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Score strips.

        Parameters
        ----------
        model_input : mapping of str to array_like
            ``patches (b, n, d)``, ``context (b, n, r)``, ``profile (b, y x)``, ``features (b, f)`` and ``mask (b, n)``.
        params : mapping, optional
            ``batch_size``.

        Returns
        -------
        DataFrame
            One row per strip, as `shutterless.models.scoring.score_strips`.
        """
        dtypes = {"mask": np.bool_}
        arrays = {}
        for name in StripBatch.__dataclass_fields__:
            if name not in model_input:
                raise ValueError(f"model input lacks {name!r}; it needs {list(StripBatch.__dataclass_fields__)}")
            arrays[name] = np.asarray(model_input[name], dtype=dtypes.get(name, np.float32))
        return score_strips(self.model, StripBatch(**arrays), **dict(params or {}))


def _load_pyfunc(data_path: str) -> StripScorer:
    """Entry point that MLflow calls with the model folder."""
    return StripScorer(load_model(data_path))
