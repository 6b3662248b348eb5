"""Find labels that are probably wrong: those that models disagree with which were trained without them.

A network that has seen a label fits it, even if it is wrong. So the labels are divided into folds, and each is judged
by networks that were trained on the others (*out of fold*).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import expit

from shutterless.models.inputs import DetectorModel
from shutterless.models.scoring import score_strips
from shutterless.models.training.fit import fit_model
from shutterless.models.training.settings import TrainingError, TrainingSettings
from shutterless.pipeline.examples.training import TrainingSet

SUSPECT_BELOW = 0.5  # out-of-fold probability of the label


def score_out_of_fold(
    build: Callable[[int], DetectorModel],
    training_set: TrainingSet,
    settings: TrainingSettings,
    *,
    judged: np.ndarray | None = None,
    n_folds: int = 5,
    seeds: Sequence[int] = (1, 2),
) -> np.ndarray:
    """Probability of an event by models that were trained without the label of the example.

    Parameters
    ----------
    build : callable
        Makes a model with new weights from a seed.
    training_set : TrainingSet
    settings : TrainingSettings
        ``seed`` is replaced.
    judged : ndarray of int64, shape (b,), optional
        Number of the thing that each example shows; -1 for examples that are trained on in every fold and not judged.
        Examples of one number lie in one fold, because they have one label. Left out, each is judged by itself.
    n_folds : int
    seeds : sequence of int
        Each divides the labels anew, and draws new weights.

    Returns
    -------
    ndarray of float64, shape (b,)
        Mean over the seeds; NaN where nothing was judged.

    Raises
    ------
    TrainingError
        If there are fewer things than folds.
    """
    things = np.arange(len(training_set)) if judged is None else np.asarray(judged)
    known = np.unique(things[things >= 0])
    if n_folds < 2 or len(known) < n_folds:
        raise TrainingError(f"{len(known)} labels cannot be divided into {n_folds} folds; give more labels")
    total = np.zeros(len(things))
    for seed in seeds:
        fold = np.full(len(things), n_folds)
        order = np.random.default_rng(seed).permutation(len(known))
        fold[things >= 0] = (order % n_folds)[np.searchsorted(known, things[things >= 0])]
        for number in range(n_folds):
            apart = replace(training_set, groups=fold)
            result = fit_model(build(seed), apart, replace(settings, seed=seed), validation_groups=[number])
            index = result.validation_index
            numbers = None if training_set.numbers is None else training_set.numbers[index]
            scored = score_strips(result.model, training_set.strips[index], numbers=numbers)
            total[index] += expit(scored["event_logit"].to_numpy())
    return np.where(things >= 0, total / len(seeds), np.nan)


def label_probability(training_set: TrainingSet, probability: np.ndarray) -> np.ndarray:
    """Out-of-fold probability of the label that each example has, from the probability of an event."""
    return np.where(training_set.labels.is_event > 0.5, probability, 1 - probability)


def find_suspects(training_set: TrainingSet, probability: np.ndarray) -> np.ndarray:
    """Examples whose label is probably wrong, the least probable label first.

    Parameters
    ----------
    training_set : TrainingSet
    probability : ndarray, shape (b,)
        From `score_out_of_fold`.

    Returns
    -------
    ndarray of int64
        Indices of the examples whose label has a probability below `SUSPECT_BELOW`.
    """
    own = label_probability(training_set, probability)
    order = np.argsort(own, kind="stable")
    return order[own[order] < SUSPECT_BELOW]
