"""Load a logged detector for MLflow's generic model format: from safetensors, without pickle or mlflow.

The same object works in Python (``mlflow.pyfunc.load_model``) and behind ``mlflow models serve``: strips in, scores
out; paths of FITS files in, candidates out. A detector of boxes takes images, or paths of FITS images, and gives boxes.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from shutterless.models.boxes.detector import BoxDetector
from shutterless.models.boxes.find import FOUND_COLUMNS, find_boxes
from shutterless.models.boxes.saved import load_boxes
from shutterless.models.families import load_model
from shutterless.models.inputs import DetectorModel
from shutterless.models.scoring import score_strips
from shutterless.pipeline.reading.fits_files import FrameError
from shutterless.pipeline.reading.sky_images import read_sky_image
from shutterless.pipeline.tokens import STRIP_ARRAYS
from shutterless.workflows.boxes.find import find_in_image
from shutterless.workflows.serving.bodies import RequestError, plain_table, read_strips
from shutterless.workflows.serving.limits import Limits, SearchRequest, allowed_file
from shutterless.workflows.tracking.logged_model import BOX_INPUTS, BOX_PARAMETERS, PARAMETERS, finds_boxes

if TYPE_CHECKING:
    from shutterless.workflows.serving.tasks import SearchOptions

INSTRUMENT_VARIABLE = "SHUTTERLESS_INSTRUMENT"
_META = "registered_model_meta"  # MLflow writes it beside a model from a registry


class StripScorer:
    """A detector with the ``predict`` that MLflow calls.

    Parameters
    ----------
    model : DetectorModel
    folder : Path, optional
        Folder of the model; without it no files are searched.
    address : str, optional
        Value of the column ``model`` of candidates; the folder when left out.
    """

    def __init__(self, model: DetectorModel, folder: Path | None = None, address: str | None = None) -> None:
        self.model, self._folder = model, folder
        self._address = address or str(folder)
        self._scoring = threading.Lock()
        # one at a time, and always in the same thread, which keeps its memory for the next request
        self._searching = ThreadPoolExecutor(max_workers=1, thread_name_prefix="search")

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Score strips, or search files.

        Parameters
        ----------
        model_input : mapping, DataFrame or sequence of mappings
            Strips: ``patches (b, n, d)``, ``context (b, n, r)``, ``profile (b, y x)``, ``features (b, f)`` and
            ``mask (b, n)``; in a DataFrame or a sequence one strip per row. Files: ``path``, one or several, and
            ``quadrant`` where only one amplifier of each is to be searched.
        params : mapping, optional
            ``batch_size`` of strips; ``false_alarms_per_hour`` of a search, per amplifier-hour.

        Returns
        -------
        DataFrame
            One row per strip, as `shutterless.models.scoring.score_strips`. For files the candidates, as
            `shutterless.workflows.searching.search.search_files` writes them, with None for missing values.

        Raises
        ------
        RequestError
            If the input is neither, or a file must not or cannot be read; the message gives the reason.
        """
        values, options = _columns(model_input), _options(params, PARAMETERS)
        if "path" not in values:
            strips = read_strips(values, Limits.from_environment().max_strips)
            with self._scoring:
                return score_strips(self.model, strips, options["batch_size"])
        if also := sorted(set(values) & set(STRIP_ARRAYS)):
            raise RequestError(f"model input holds path and {also}: either files are searched or strips are scored")
        limits = Limits.from_environment()
        request = SearchRequest.of_pairs(_pairs(values), options, limits.allowed)
        return self._searching.submit(self._search, request, limits.max_rows).result()

    def _search(self, request: SearchRequest, max_rows: int) -> pd.DataFrame:
        from shutterless.workflows.serving.tasks import name_detector, search_request

        if self._folder is None:
            raise RequestError("this model was not loaded from a folder and scores strips only")
        detector = name_detector(self._address, self._folder)
        with tempfile.TemporaryDirectory(prefix="shutterless-") as out:
            result = search_request(request, self._address, detector, _search_options(), max_rows, Path(out))
        if len(result.failures):
            raise RequestError("; ".join(dict.fromkeys(result.failures["reason"])))
        return plain_table(result.candidates)


class BoxFinder:
    """A detector of boxes with the ``predict`` that MLflow calls.

    Parameters
    ----------
    model : BoxDetector
    """

    def __init__(self, model: BoxDetector) -> None:
        self.model = model

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Find boxes in images.

        Parameters
        ----------
        model_input : mapping, DataFrame or sequence of mappings
            ``image (y, x)`` or ``(b, y, x)``, NaN or None where there is no value; or ``path`` of one or several
            two-dimensional FITS images. In a DataFrame or a sequence one image per row.
        params : mapping, optional
            ``least_score``, the smallest probability of a box.

        Returns
        -------
        DataFrame
            ``image``, its number from 0, and `shutterless.models.boxes.find.FOUND_COLUMNS`.

        Raises
        ------
        RequestError
            If the input is neither, or a file must not or cannot be read; the message gives the reason.
        """
        values, options = _columns(model_input), _options(params, BOX_PARAMETERS)
        if len(given := [name for name in BOX_INPUTS if name in values]) != 1:
            raise RequestError(f"model input holds {sorted(values)}; give either image or path")
        score = float(options["least_score"])
        if given == ["path"]:
            found = [self._find_in_file(path, score) for path in _listed(values["path"])]
        else:
            found = [find_boxes(self.model, image, score) for image in _images(values["image"])]
        tables = [boxes.assign(image=number) for number, boxes in enumerate(found)]
        return pd.concat(tables, ignore_index=True)[["image", *FOUND_COLUMNS]]

    def _find_in_file(self, path: Any, least_score: float) -> pd.DataFrame:
        try:
            return find_in_image(
                self.model, read_sky_image(allowed_file(path, Limits.from_environment().allowed)), least_score
            )[0]
        except FrameError as error:
            raise RequestError(str(error)) from error


def _images(value: Any) -> list[np.ndarray]:
    """Images of a request, each (y, x)."""
    try:
        images = [np.asarray(one, dtype=np.float32) for one in value]
    except (TypeError, ValueError) as error:
        raise RequestError(f"image holds no numbers: {error}") from error
    if images and images[0].ndim == 1:  # one image
        images = [np.asarray(value, dtype=np.float32)]
    for image in images:
        if image.ndim != 2 or not image.size:
            raise RequestError(f"an image has the shape {image.shape}; rows of pixels are expected")
    if not images:
        raise RequestError("image is empty; rows of pixels are expected")
    return images


def _search_options() -> SearchOptions:
    from shutterless.workflows.serving.tasks import SearchOptions

    return SearchOptions(instrument=os.environ.get(INSTRUMENT_VARIABLE) or None)


def _columns(model_input: Any) -> dict[str, Any]:
    """Columns of a model input in any of its forms."""
    if isinstance(model_input, pd.DataFrame):
        return {str(name): model_input[name].tolist() for name in model_input}
    if isinstance(model_input, Mapping):
        return dict(model_input)
    if isinstance(model_input, Sequence) and all(isinstance(row, Mapping) for row in model_input) and model_input:
        names = dict.fromkeys(name for row in model_input for name in row)
        return {name: [row.get(name) for row in model_input] for name in names}
    raise RequestError(
        f"model input is a {type(model_input).__name__}; a mapping of arrays, a table or a list of records is expected"
    )


def _options(params: Mapping[str, Any] | None, known: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(params or ()) - set(known))
    if unknown:
        raise RequestError(f"unknown params {unknown}; there are {sorted(known)}")
    return {**known, **(params or {})}


def _pairs(values: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Path and quadrant of every row; a single value holds for all rows."""
    paths, quadrants = _listed(values["path"]), _listed(values.get("quadrant"))
    if len(quadrants) == 1:
        quadrants *= len(paths)
    if len(quadrants) != len(paths):
        raise RequestError(f"model input holds {len(paths)} paths and {len(quadrants)} quadrants")
    return [(path, None if pd.isna(quadrant) else quadrant) for path, quadrant in zip(paths, quadrants, strict=True)]


def _listed(value: Any) -> list[Any]:
    found = value.tolist() if hasattr(value, "tolist") else value
    return list(found) if isinstance(found, list | tuple) else [found]


def _load_pyfunc(data_path: str) -> StripScorer | BoxFinder:
    """Entry point that MLflow calls with the model folder."""
    folder = Path(data_path)
    if finds_boxes(folder):
        return BoxFinder(load_boxes(folder))
    return StripScorer(load_model(folder), folder, _registered_address(folder))


def _registered_address(folder: Path) -> str | None:
    """``models:/NAME/VERSION`` of a model from a registry."""
    about = folder.parent.parent / _META
    if not about.is_file():
        return None
    lines = (line.partition(": ") for line in about.read_text(encoding="utf-8").splitlines())
    values = {key: value.strip("'\"") for key, _, value in lines}
    if not {"model_name", "model_version"} <= values.keys():
        return None
    return f"models:/{values['model_name']}/{values['model_version']}"
