"""Flipped labels are found by models that were trained without them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shutterless.models.families import build_model
from shutterless.models.training.settings import TrainingError, TrainingSettings
from shutterless.models.training.wrong_labels import find_suspects, label_probability, score_out_of_fold

SETTINGS = TrainingSettings(epochs=6, batch_size=64, learning_rate=1e-2)


def build(grid):
    return lambda seed: build_model("mlp", grid, {"hidden_sizes": [16], "dropout": 0.0}, seed=seed)


@pytest.fixture(scope="module")
def flipped(toy):
    """A fifth of the toy labels, flipped, and which."""
    chosen = np.sort(np.random.default_rng(3).permutation(len(toy))[: len(toy) // 5])
    is_event = toy.labels.is_event.copy()
    is_event[chosen] = 1 - is_event[chosen]
    return replace(toy, labels=replace(toy.labels, is_event=is_event)), chosen


def test_most_flipped_labels_are_suspects_and_few_others(flipped):
    noisy, chosen = flipped
    suspects = find_suspects(noisy, score_out_of_fold(build(noisy.grid), noisy, SETTINGS, n_folds=3, seeds=(1,)))
    assert np.isin(chosen, suspects).mean() > 0.9
    assert np.isin(suspects, chosen).mean() > 0.7
    assert np.isin(suspects[:50], chosen).mean() > 0.95  # the least probable first


def test_only_what_is_judged_has_a_probability_and_copies_of_one_thing_share_a_fold(toy):
    """A memory of its own label would make the one wrong label of ten equal strips probable."""
    few = toy[:60]
    copies = np.concatenate([np.full(10, 1), np.arange(1, 60)])
    is_event = few.labels.is_event[copies].copy()
    is_event[:10] = 1 - is_event[:10]
    examples = few[copies]
    examples = replace(examples, labels=replace(examples.labels, is_event=is_event))
    things = np.where(np.arange(69) < 10, 0, np.where(np.arange(69) < 40, np.arange(69), -1))
    probability = score_out_of_fold(
        build(toy.grid), examples, replace(SETTINGS, epochs=10), judged=things, n_folds=2, seeds=(1, 2)
    )
    assert np.isnan(probability[things < 0]).all()
    assert np.ptp(probability[:10]) == 0
    assert label_probability(examples, probability)[:10].max() < 0.5


def test_fewer_labels_than_folds_are_refused(toy):
    with pytest.raises(TrainingError, match="4 labels cannot be divided into 5 folds; give more labels"):
        score_out_of_fold(build(toy.grid), toy[:4], SETTINGS)
