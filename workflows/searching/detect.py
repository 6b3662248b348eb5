"""Find the triggers of one amplifier and score them with one or several detectors, for evaluation and search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import RateCurve, detection_score
from shutterless.models.forest.forest import Forest, is_combined, is_forest, load_forest
from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.context.features import measure_context
from shutterless.pipeline.detection.scan import choose_hits, scan
from shutterless.pipeline.detection.threshold import NO_LIMIT, TRIGGER_THRESHOLD, TriggerBudget
from shutterless.pipeline.detection.trails import best_of_trails
from shutterless.pipeline.detection.triggers import LEAST_SHARE, characterise
from shutterless.pipeline.detection.vetoes import need_a_model
from shutterless.pipeline.examples.strips import cut_strips
from shutterless.pipeline.examples.training import hide_events
from shutterless.pipeline.store.store import open_amplifier
from shutterless.pipeline.stored_files import read_json
from shutterless.pipeline.tokens import STRIPS_AT_ONCE, StripBatch, TokenGrid
from shutterless.workflows.execution.retries import describe_error

if TYPE_CHECKING:
    from shutterless.models.combined.combined import Combined
    from shutterless.models.inputs import DetectorModel  # torch takes seconds, and the template bank needs none

RATES = "rates.json"


class RatesError(ValueError):
    """A stored false-alarm curve that cannot be read."""


@dataclass(frozen=True)
class Detector:
    """A detector by the name it has in tables, and the folder of its model (None for the template bank)."""

    name: str
    folder: str | None


@dataclass(frozen=True)
class StackView:
    """The part of an amplifier that is searched: some of its rows, with events above a S/N masked (0: none masked)."""

    rows: tuple[int, int] | None = None
    hide_above: float = 0.0

    def open(self, store: str, entry: str) -> Amplifier:
        """Open this view of an entry."""
        amplifier = open_amplifier(store, entry)
        if self.hide_above > 0:
            amplifier = hide_events(amplifier, self.hide_above)
        return amplifier if self.rows is None else amplifier.between(*self.rows)


@dataclass(frozen=True)
class DetectTask:
    """One amplifier, and the detectors that score it."""

    store: str
    entry: str
    detectors: tuple[Detector, ...]
    threshold: float
    batch_size: int = STRIPS_AT_ONCE
    view: StackView = StackView()


def detect(task: DetectTask) -> pd.DataFrame:
    """Find the triggers of one amplifier and let every detector score them.

    Returns
    -------
    DataFrame
        One row per trigger: the columns of `shutterless.pipeline.detection.triggers.find_triggers`, ``entry``, and for
        each detector ``NAME/score`` (higher is surer; -inf where vetoed, where a model does not score, and for all
        triggers of a trail but the best), ``NAME/probability``, ``NAME/kind`` and ``NAME/kind_probability`` (missing
        for the template bank).
    """
    amplifier = task.view.open(task.store, task.entry)
    triggers, _ = find_triggers_for(amplifier, task.detectors, task.threshold)
    return score_triggers(amplifier, triggers.assign(entry=task.entry), task.detectors, task.batch_size)


def find_triggers_for(
    amplifier: Amplifier, detectors: Sequence[Detector], threshold: float, budget: TriggerBudget = NO_LIMIT
) -> tuple[pd.DataFrame, int]:
    """Find the triggers that the detectors judge: with context also those that the scatter of their star weakens.

    Returns
    -------
    triggers : DataFrame
        As `shutterless.pipeline.detection.triggers.find_triggers`.
    n_unmeasured : int
        Places of the scan beyond the budget. They count as neighbours of the same rows alone.
    """
    hits = scan(amplifier, threshold)
    chosen = choose_hits(hits, budget.of(amplifier)[0])
    least = threshold * (LEAST_SHARE if _any_context(detectors) else 1.0)
    return characterise(amplifier, hits[chosen], least, hits[~chosen]), int((~chosen).sum())


def _any_context(detectors: Sequence[Detector]) -> bool:
    return any(load_once(detector.folder).sees_context for detector in detectors if detector.folder is not None)


def score_triggers(
    amplifier: Amplifier,
    triggers: pd.DataFrame,
    detectors: Sequence[Detector],
    batch_size: int = STRIPS_AT_ONCE,
    budget: TriggerBudget = NO_LIMIT,
) -> pd.DataFrame:
    """Let every detector score the triggers of an amplifier.

    Parameters
    ----------
    amplifier : Amplifier
    triggers : DataFrame
        From `shutterless.pipeline.detection.triggers.find_triggers`.
    detectors : sequence of Detector
    batch_size : int
    budget : TriggerBudget

    Returns
    -------
    DataFrame
        The triggers with the columns of each detector, as `detect` returns them, and of a combined detector
        ``NAME/passed_over``: whether its networks would have seen the trigger but for the budget.
    """
    most_asked = budget.of(amplifier)[1]
    strips: dict[TokenGrid, StripBatch] = {}
    context: pd.DataFrame | None = None
    asked = need_a_model(triggers)
    if _any_context(detectors):  # models of pixels were not trained on what the scatter of a star weakens
        asked &= (triggers["snr"].abs().ge(TRIGGER_THRESHOLD) | triggers["star_scatter"].eq(1)).to_numpy()
    for detector in detectors:
        model = None if detector.folder is None else load_once(detector.folder)
        if model is None:
            scores = _score_classically(triggers)
        elif model.sees_context:
            context = measure_context(amplifier, triggers) if context is None else context
            judge = cast("Forest | Combined", model)
            scores = _score_with_context(judge, amplifier, triggers, context, batch_size, most_asked)
        else:
            model = cast("DetectorModel", model)
            if model.grid not in strips:
                strips[model.grid] = cut_strips(amplifier, triggers[asked], model.grid)
            scores = _score_by_model(model, strips[model.grid], triggers, asked, batch_size)
        scores = scores.assign(score=keep_best_of_trails(scores["score"].to_numpy(), triggers["trail_id"]))
        own = {f"{detector.name}/{name}": column.to_numpy() for name, column in scores.items()}
        triggers = triggers.assign(**own)
    return triggers


def _score_with_context(
    model: Forest | Combined,
    amplifier: Amplifier,
    triggers: pd.DataFrame,
    context: pd.DataFrame,
    batch_size: int,
    most_asked: float,
) -> pd.DataFrame:
    """Scores of a forest, or of a combined detector, which has the strips cut that its networks ask for."""
    if isinstance(model, Forest):
        scores = model.score(context)
    else:
        grid, trails = model.grid, triggers["trail_id"].fillna(-1).to_numpy(dtype=np.int64)
        cut = partial(_cut_asked, amplifier, triggers, grid)
        scores = model.score(context, cut, batch_size, trails=trails, most_asked=most_asked)
    return scores.rename(columns={"event_logit": "score"})


def _cut_asked(amplifier: Amplifier, triggers: pd.DataFrame, grid: TokenGrid, asked: np.ndarray) -> StripBatch:
    return cut_strips(amplifier, triggers[asked], grid)


def keep_best_of_trails(score: np.ndarray, trail: pd.Series) -> np.ndarray:
    """Scores of triggers, -inf for all of a trail but the best, since they are one object.

    Parameters
    ----------
    score : ndarray, shape (n,)
    trail : Series of Int64, length n
        Number of the trail of each trigger, missing without one. Of equal scores the first counts.
    """
    best = best_of_trails(score, trail.fillna(-1).to_numpy(dtype=np.int64))
    return np.where(best == np.arange(len(score)), score, -np.inf)


def detector_columns(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Triggers with the columns of one detector under their plain names (``score``, ``probability``, …)."""
    own = {column: column.removeprefix(f"{name}/") for column in table if column.startswith(f"{name}/")}
    foreign = [column for column in table if "/" in column and column not in own]
    return table.drop(columns=foreign).rename(columns=own)


def read_rates(folder: str | Path) -> RateCurve | None:
    """Measured false-alarm curve of a detector; None if there is none.

    Raises
    ------
    RatesError
        If its file is damaged, or holds something else.
    """
    path = Path(folder) / RATES
    if not path.is_file():
        return None
    try:
        return RateCurve.from_dict(read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        raise RatesError(
            f"{path} is no false-alarm curve ({describe_error(error)}); copy the whole folder again"
        ) from error


def write_rates(folder: str | Path, curve: RateCurve, manifest_hash: str) -> None:
    """Write a detector's false-alarm curve beside its weights, with the hash of the frames it was counted on."""
    path = Path(folder) / RATES
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**curve.to_dict(), "manifest_hash": manifest_hash}))


def _score_classically(triggers: pd.DataFrame) -> pd.DataFrame:
    score = triggers["snr"].abs().where(triggers["veto"] == "", -np.inf)
    missing = pd.Series(np.nan, index=triggers.index)
    nameless = pd.Series(pd.NA, index=triggers.index, dtype="string")
    return pd.DataFrame({"score": score, "probability": missing, "kind": nameless, "kind_probability": missing})


def _score_by_model(
    model: DetectorModel, strips: StripBatch, triggers: pd.DataFrame, asked: np.ndarray, batch_size: int
) -> pd.DataFrame:
    """Scores of all triggers, from the strips of those that a model scores; no score for the others."""
    from shutterless.models.scoring import score_strips

    scored = score_strips(model, strips, batch_size)
    snr = triggers["snr"].abs().to_numpy()[asked]
    scored = scored.assign(score=detection_score(scored["event_logit"].to_numpy(), snr))
    whole = scored[["score", "probability", "kind", "kind_probability"]].set_index(np.flatnonzero(asked))
    whole = whole.reindex(np.arange(len(triggers)))
    return whole.assign(score=whole["score"].fillna(-np.inf), probability=whole["probability"].fillna(0.0))


@lru_cache(maxsize=8)
def load_once(folder: str) -> DetectorModel | Forest | Combined:
    """Load a model, once in each process."""
    if is_forest(folder):
        return load_forest(folder)
    if is_combined(folder):
        from shutterless.models.combined.combined import load_combined

        return load_combined(folder)
    from shutterless.models.families import load_model

    return load_model(Path(folder))
