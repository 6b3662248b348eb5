"""Grow a forest from a table of labelled triggers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.evaluation.platt import fit_platt
from shutterless.models.forest.forest import Forest
from shutterless.models.forest.settings import ForestSettings
from shutterless.models.forest.trees import Trees, trees_of
from shutterless.pipeline.context.features import CONTEXT_FEATURES
from shutterless.pipeline.events.kinds import EVENT_KINDS

_CLASS_SHARE = 0.25  # of the trees that tell events that the trees of each kind have; four kinds are easily told


class ForestFitError(ValueError):
    """Labelled triggers from which no forest can be grown."""


def fit_forest(
    context: pd.DataFrame, kind: np.ndarray, groups: np.ndarray, settings: ForestSettings, held_back: float = 0.15
) -> tuple[Forest, np.ndarray]:
    """Grow a forest.

    Parameters
    ----------
    context : DataFrame
        `CONTEXT_FEATURES` of ``n`` triggers.
    kind : ndarray of str, shape (n,)
        Kind of event that each trigger matches, or any other word for a trigger without an event.
    groups : ndarray, shape (n,)
        Field of each trigger. Some fields are held back to calibrate the probabilities; the trees never see them.
    settings : ForestSettings
    held_back : float
        Share of the fields.

    Returns
    -------
    forest : Forest
    held_back : ndarray of bool, shape (n,)
        Triggers of the fields that were held back.

    Raises
    ------
    ForestFitError
        If there are fewer than two fields, or no trigger with or without an event.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier  # slow to import, and no search needs it

    is_event = np.isin(kind, EVENT_KINDS)
    fields = np.unique(groups)
    if len(fields) < 2:
        raise ForestFitError(f"a forest needs triggers of two fields at least, one to calibrate it; got {len(fields)}")
    rng = np.random.default_rng(settings.seed)
    chosen = rng.permutation(fields)[: max(round(held_back * len(fields)), 1)]
    is_held = np.isin(groups, chosen)
    for name, part in (("trained on", ~is_held), ("held back", is_held)):
        n_events = int(is_event[part].sum())
        if not 0 < n_events < part.sum():
            raise ForestFitError(
                f"the fields {name} hold {n_events} triggers of events among {part.sum()}; both kinds are needed: "
                "give more fields, or more events in each"
            )
    numbers = context[list(CONTEXT_FEATURES)].to_numpy(dtype=np.float64)
    learned = _splittable(numbers[~is_held])
    events = grow_trees(learned, is_event[~is_held], settings)
    found = is_event[~is_held]
    names = kind[~is_held][found]
    kinds = tuple(str(name) for name in EVENT_KINDS if name in set(names))
    n_class_trees = max(int(settings.n_trees * _CLASS_SHARE), 1)
    classes = HistGradientBoostingClassifier(
        random_state=settings.seed, max_iter=n_class_trees, **_hyperparameters(settings)
    )
    forest = Forest(events, _class_trees(classes, learned[found], names, kinds), kinds)
    logit = forest.events.sums(numbers[is_held])[:, 0]
    return Forest(forest.events, forest.classes, kinds, calibration=fit_platt(logit, is_event[is_held])), is_held


def grow_trees(numbers: np.ndarray, is_event: np.ndarray, settings: ForestSettings) -> Trees:
    """Grow the trees that tell events.

    Parameters
    ----------
    numbers : ndarray of float64, shape (n, c)
        NaN where unknown.
    is_event : ndarray of bool, shape (n,)
    settings : ForestSettings
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    common = _hyperparameters(settings)
    seeds = range(settings.seed, settings.seed + settings.n_seeds)
    return trees_of(
        [
            HistGradientBoostingClassifier(random_state=seed, max_iter=settings.n_trees, **common).fit(
                _splittable(numbers), is_event
            )
            for seed in seeds
        ]
    )


def _splittable(numbers: np.ndarray) -> np.ndarray:
    """Copy of the numbers with 0 for those known nowhere, which have nothing to split."""
    copy = numbers.copy()
    copy[:, ~np.isfinite(copy).any(axis=0)] = 0.0
    return copy


def _hyperparameters(settings: ForestSettings) -> dict[str, Any]:
    return {
        "learning_rate": settings.learning_rate,
        "max_leaf_nodes": settings.max_leaves,
        "min_samples_leaf": settings.min_leaf,
        "l2_regularization": settings.l2,
        "max_features": settings.feature_share,
        "early_stopping": False,
    }


def _class_trees(model: object, numbers: np.ndarray, kind: np.ndarray, kinds: tuple[str, ...]) -> Trees:
    """Trees with one output for each kind. Of one kind nothing is grown, and two kinds share one output."""
    if len(kinds) == 1:
        return _no_trees(1)
    index = np.array([kinds.index(name) for name in kind])
    trees = trees_of([model.fit(numbers, index)])  # type: ignore[attr-defined]
    if len(kinds) > 2:
        return trees
    one = trees.to_arrays("")  # log-odds of the second kind
    return Trees(**{**one, "output": one["output"] + 1, "base": np.array([0.0, float(one["base"][0])])})


def _no_trees(n_outputs: int) -> Trees:
    whole, real = np.zeros(0, np.int32), np.zeros(0)
    return Trees(whole, real, whole, whole, np.zeros(0, bool), real, whole, whole, np.zeros(n_outputs))
