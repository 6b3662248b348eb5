"""Score strips and search files with a model, for ``serve`` and for MLflow's own server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from shutterless.pipeline.reading.frames import FrameInfo
from shutterless.pipeline.tokens import STAGE1_FEATURES, StripBatch, TokenGrid
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.ingest import Survey, survey_files
from shutterless.workflows.searching.detect import Detector
from shutterless.workflows.searching.search import SearchError, SearchJob, SearchResult, find_curve, search_survey
from shutterless.workflows.serving.bodies import RequestError
from shutterless.workflows.serving.limits import SearchRequest
from shutterless.workflows.settings.settings import SearchSettings
from shutterless.workflows.tracking.tracking import TEMPLATE_BANK, model_type

if TYPE_CHECKING:
    from shutterless.models.inputs import DetectorModel

_LISTED = 5  # reasons in one message


@dataclass(frozen=True)
class SearchOptions:
    """Settings of all searches of a server; as the options of ``shutterless search``."""

    settings: SearchSettings = field(default_factory=SearchSettings)
    instrument: str | None = None
    supplied: Mapping[str, str] = field(default_factory=dict)


def name_detector(address: str, folder: Path | None) -> Detector:
    """Detector, named as in the table of a search with this address."""
    if folder is None:
        return Detector(TEMPLATE_BANK, None)
    return Detector(f"{model_type(folder)} ({address})", str(folder.absolute()))


def example_strips(grid: TokenGrid, n_strips: int = 1) -> StripBatch:
    """Strips of mean sky: every residual is 0, every patch is valid."""
    n_tokens = grid.n_tokens
    shapes = {
        "patches": (n_tokens, grid.patch_size),
        "context": (n_tokens, grid.patch_rows),
        "profile": (grid.profile_size,),
        "features": (len(STAGE1_FEATURES),),
    }
    arrays = {name: np.zeros((n_strips, *shape), dtype=np.float32) for name, shape in shapes.items()}
    return StripBatch(**arrays, mask=np.ones((n_strips, n_tokens), dtype=np.bool_))


def check_model(model: DetectorModel) -> None:
    """Refuse a model that loads but gives no finite numbers.

    Raises
    ------
    ValueError
        If it needs other stage-1 features, or gives NaN.
    """
    from shutterless.models.scoring import score_strips

    scores = score_strips(model, example_strips(model.grid))
    numbers = scores.select_dtypes("number")
    if not np.isfinite(numbers.to_numpy()).all():
        raise ValueError(f"the model gives numbers that are not finite for an empty strip: {numbers.iloc[0].to_dict()}")


def check_threshold(detector: Detector, options: SearchOptions) -> None:
    """Refuse a detector without a known threshold.

    Raises
    ------
    SearchError
        As `shutterless.workflows.searching.search.find_curve`.
    """
    find_curve(detector, options.settings.false_alarms_per_hour)


def search_request(
    request: SearchRequest, address: str, detector: Detector, options: SearchOptions, max_rows: int, out: Path
) -> SearchResult:
    """Search the files of a request as ``shutterless search`` does.

    Parameters
    ----------
    request : SearchRequest
    address : str
        Address of the model, as in results.
    detector : Detector
    options : SearchOptions
    max_rows : int
        Largest number of rows of all files.
    out : Path
        Empty folder for the tables of the search.

    Returns
    -------
    SearchResult
        For the requested quadrants; ``failures`` lists those that could not be read.

    Raises
    ------
    RequestError
        If nothing can be read, a path is a folder, a file has no such quadrant, or there are too many rows.
    """
    if folders := [path for path in request.targets if path.is_dir()]:  # a search would take the files in it
        raise RequestError(f"{folders[0]} is not a file")
    job = _prepare(request, address, detector, options, out)
    executor = SerialExecutor()
    survey = survey_files(
        list(request.targets), instrument=options.instrument, supplied=options.supplied, executor=executor
    )
    survey = _choose_quadrants(survey, request)
    _check_readable(survey.failures, bool(survey.infos))
    n_rows = sum(info.n_rows for info in survey.infos)
    if n_rows > max_rows:
        raise RequestError(f"the files hold {n_rows} rows, more than the {max_rows} of one request", 413)
    result = search_survey(job, survey, executor)
    _check_readable(result.failures, _anything_left(survey, result.failures))
    return result


def _prepare(request: SearchRequest, address: str, detector: Detector, options: SearchOptions, out: Path) -> SearchJob:
    settings = options.settings
    if request.false_alarms_per_hour is not None:
        settings = replace(settings, false_alarms_per_hour=request.false_alarms_per_hour)
    try:
        job = SearchJob.prepare(
            detector.folder or TEMPLATE_BANK, out, settings, instrument=options.instrument, supplied=options.supplied
        )
    except SearchError as error:
        raise RequestError(str(error).replace(str(detector.folder), address)) from error
    return replace(job, reference=address, detector=detector)


def _choose_quadrants(survey: Survey, request: SearchRequest) -> Survey:
    """The requested part of a survey."""
    infos = [_choose_readouts(info, request.targets[info.path]) for info in survey.infos]
    failures = survey.failures
    wanted = [request.targets[Path(path)] for path in failures["path"]]
    quadrants = [None if pd.isna(quadrant) else int(quadrant) for quadrant in failures["quadrant"]]
    kept = [own is None or q is None or q in own for q, own in zip(quadrants, wanted, strict=True)]
    return replace(survey, infos=tuple(info for info in infos if info.readouts), failures=failures[kept])


def _choose_readouts(info: FrameInfo, wanted: frozenset[int] | None) -> FrameInfo:
    if wanted is None:
        return info
    there = {quadrant for quadrant in (*info.readouts, *info.skipped) if quadrant is not None}
    if absent := sorted(wanted - there):
        has = f"it has {sorted(there)}" if there else "it is not read by quadrants"
        raise RequestError(f"{info.path} has no quadrant {absent[0]}; {has}")
    return replace(info, readouts={q: readout for q, readout in info.readouts.items() if q in wanted})


def _anything_left(survey: Survey, failures: pd.DataFrame) -> bool:
    """Whether any of the searched amplifiers is not among the failures."""
    lost = {
        (path, None if pd.isna(quadrant) else int(quadrant))
        for path, quadrant in zip(failures["path"], failures["quadrant"], strict=True)
    }
    return any((str(task.path.absolute()), task.quadrant) not in lost for task in survey.tasks)


def _check_readable(failures: pd.DataFrame, is_any: bool) -> None:
    if is_any:
        return
    reasons = list(dict.fromkeys(failures["reason"]))
    more = f" … and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
    raise RequestError("nothing can be read: " + "; ".join(reasons[:_LISTED]) + more)
