"""Train a combined detector: grow its forest, train its networks on the triggers it ranks highest, weigh the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit
from transformers import TrainerCallback

from shutterless.models.combined.combined import Combined
from shutterless.models.combined.settings import CombinedSettings, CombinedSettingsError
from shutterless.models.families import build_model
from shutterless.models.forest.fit import fit_forest, grow_trees
from shutterless.models.forest.settings import ForestSettings
from shutterless.models.training.fit import fit_model
from shutterless.pipeline.examples.training import TrainingSet


def fit_combined(
    examples: TrainingSet,
    context: pd.DataFrame,
    kind: np.ndarray,
    hours: float,
    forest_settings: ForestSettings,
    settings: CombinedSettings,
    *,
    family: str = "transformer",
    architecture: dict[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[Combined, np.ndarray]:
    """Train a combined detector.

    Parameters
    ----------
    examples : TrainingSet
        Strips of ``n`` triggers with their labels, context and fields (``groups``).
    context : DataFrame
        `shutterless.pipeline.context.features.CONTEXT_FEATURES` of the triggers.
    kind : ndarray of str, shape (n,)
        Kind of event that each trigger matches, or any other word for a trigger without an event.
    hours : float
        Amplifier-hours of all fields.
    forest_settings : ForestSettings
    settings : CombinedSettings
    family : str
        Of the networks.
    architecture : dict, optional
        Hyperparameters of the networks that differ from the family's defaults.
    callbacks : sequence of TrainerCallback
        As `shutterless.models.training.fit.fit_model`.

    Returns
    -------
    combined : Combined
    held_back : ndarray of bool, shape (n,)
        Triggers of the fields that were held back from everything but the choice of epochs and the weights.

    Raises
    ------
    CombinedSettingsError
        If there are fewer fields than folds besides those held back.
    """
    forest, is_held = fit_forest(context, kind, examples.groups, forest_settings)
    is_event = examples.labels.is_event > 0.5
    logit = _rank_apart(context, is_event, examples.groups, is_held, forest_settings, settings)
    logit[is_held] = forest.score(context[is_held])["event_logit"]
    share = len(np.unique(examples.groups[is_held])) / len(np.unique(examples.groups))
    # the forests of the folds learned from less, so their log-odds have a scale of their own
    wanted = settings.asked_per_hour * hours
    ask_above = _limit(logit[is_held & ~is_event], wanted * share)
    limit = np.where(is_held, ask_above, _limit(logit[~is_held & ~is_event], wanted * (1 - share)))
    asked = np.flatnonzero(logit > limit)
    chosen = examples[asked]
    networks = [
        fit_model(
            build_model(family, examples.grid, architecture, context=True, seed=settings.seed + number),
            chosen,
            settings.training(number),
            validation_groups=np.unique(examples.groups[is_held]).tolist(),
            validation_alarms=max(round(settings.alarms_per_hour * hours * share), 1),
            callbacks=callbacks,
        ).model
        for number in range(settings.n_networks)
    ]
    combined = Combined(forest, tuple(networks), (0.0, 0.0, 1.0), ask_above)
    judged = asked[is_held[asked]]
    held = examples[judged]
    assert held.numbers is not None
    weights = fit_weights(logit[judged], combined.ask(held.strips, held.numbers), is_event[judged])
    return replace(combined, weights=weights), is_held


def _rank_apart(
    context: pd.DataFrame,
    is_event: np.ndarray,
    groups: np.ndarray,
    is_held: np.ndarray,
    forest_settings: ForestSettings,
    settings: CombinedSettings,
) -> np.ndarray:
    """Log-odds of the triggers that are not held back, each by trees that never saw its field; NaN for the others."""
    fields = np.unique(groups[~is_held])
    if len(fields) < settings.folds:
        raise CombinedSettingsError(
            f"{len(fields)} fields to train on, besides those held back, do not fill {settings.folds} folds: "
            "give more fields, or fewer folds"
        )
    numbers, logit = context.to_numpy(dtype=np.float64), np.full(len(context), np.nan)
    for fold in np.array_split(np.random.default_rng(settings.seed).permutation(fields), settings.folds):
        apart = ~is_held & np.isin(groups, fold)
        learned = ~is_held & ~apart
        trees = grow_trees(numbers[learned], is_event[learned], replace(forest_settings, n_seeds=1))
        logit[apart] = trees.sums(numbers[apart])[:, 0]
    return logit


def _limit(logit: np.ndarray, n_above: float) -> float:
    """Log-odds that this many exceed; minus infinity if there are not so many."""
    place = round(n_above)
    return float(np.sort(logit)[::-1][place]) if place < len(logit) else -np.inf


def fit_weights(forest: np.ndarray, networks: np.ndarray, is_event: np.ndarray) -> tuple[float, float, float]:
    """Logistic regression of events on the log-odds of a forest and of networks.

    Parameters
    ----------
    forest, networks : ndarray, shape (b,)
        Log-odds for triggers that neither was trained on.
    is_event : ndarray of bool, shape (b,)

    Returns
    -------
    intercept, forest, networks : float
        The weights are not negative.
    """
    columns = np.stack([np.ones_like(forest), forest, networks])

    def loss_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logit = weights @ columns
        error = expit(logit) - is_event
        return float(np.mean(np.logaddexp(0, logit) - is_event * logit)), columns @ error / len(forest)

    bounds = [(None, None), (0, None), (0, None)]
    found = minimize(loss_and_gradient, [0.0, 0.5, 0.5], jac=True, method="L-BFGS-B", bounds=bounds)
    return float(found.x[0]), float(found.x[1]), float(found.x[2])
