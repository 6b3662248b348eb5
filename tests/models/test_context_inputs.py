"""Models that see the context of a trigger beside its strip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from shutterless.models.evaluation.platt import roc_area
from shutterless.models.families import build_model, load_model
from shutterless.models.inputs import N_BINS, FeatureError, NumberEncoding, number_encoding_size
from shutterless.models.scoring import score_strips
from shutterless.models.training.fit import AveragedWeights, fit_model, recall_at
from shutterless.models.training.settings import TrainingSettings
from shutterless.pipeline.context.features import CONTEXT_FEATURES

from .conftest import GRID, SMALL_ARCH, make_toy, random_strips

SETTINGS = TrainingSettings(epochs=8, batch_size=32, learning_rate=3e-3, average_decay=0.9, device="cpu")


def with_context(seed):
    """The toy with its pulses erased: only a number of the context, far from linear, tells the events."""
    toy = make_toy(seed=seed)
    rng = np.random.default_rng(seed)
    numbers = np.zeros((len(toy), len(CONTEXT_FEATURES)), np.float32)
    inside, outside = rng.uniform(-1, 1, len(toy)), rng.choice([-1, 1], len(toy)) * rng.uniform(1, 3, len(toy))
    numbers[:, 5] = np.where(toy.labels.is_event > 0.5, inside, outside)
    numbers[::9, 7] = np.nan
    return replace(toy, strips=random_strips(len(toy), seed=seed), numbers=numbers)


def build(family, **options):
    return build_model(family, GRID, SMALL_ARCH[family], context=True, seed=1, **options)


@pytest.mark.parametrize("family", ["transformer", "cnn", "mlp"])
def test_every_family_learns_from_the_context(family):
    result = fit_model(build(family), with_context(1), SETTINGS, validation_alarms=5)
    fresh = with_context(2)
    scores = score_strips(result.model, fresh.strips, numbers=fresh.numbers, device="cpu")
    assert roc_area(scores["event_logit"].to_numpy(), fresh.labels.is_event) > 0.97


def test_a_saved_model_keeps_its_context_to_the_bit(tmp_path):
    model = fit_model(build("transformer"), with_context(1), replace(SETTINGS, max_steps=5)).model
    model.save_pretrained(tmp_path)
    fresh = with_context(3)
    expected = score_strips(model, fresh.strips[:30], numbers=fresh.numbers[:30], device="cpu")
    again = score_strips(load_model(tmp_path), fresh.strips[:30], numbers=fresh.numbers[:30], device="cpu")
    assert again.equals(expected)


def test_strips_without_the_context_are_refused(strips):
    with pytest.raises(FeatureError, match="sees the context of a trigger beside its strip, and none is given"):
        score_strips(build("cnn"), strips)


def test_context_is_refused_by_a_model_of_strips_alone(strips):
    model = build_model("cnn", GRID, SMALL_ARCH["cnn"])
    with pytest.raises(FeatureError, match="sees strips alone"):
        score_strips(model, strips, numbers=np.zeros((len(strips), 3)))


def test_another_context_is_refused(strips):
    model = build("mlp")
    with pytest.raises(FeatureError, match=r"trained with the context .* but 3 numbers of"):
        score_strips(model, strips, numbers=np.zeros((len(strips), 3)))
    model.config.context_names = ["other", *CONTEXT_FEATURES[1:]]
    with pytest.raises(FeatureError, match=r"trained with the context \['other'"):
        score_strips(model, strips, numbers=np.zeros((len(strips), len(CONTEXT_FEATURES))))


def test_encoding_says_how_much_of_each_bin_lies_below_a_number():
    encoding = NumberEncoding(2)
    encoding.fit(torch.stack([torch.linspace(0, 160, 161), torch.full((161,), 7.0)], 1))
    found = encoding(torch.tensor([[25.0, 7.0], [float("nan"), 8.0], [1e9, float("inf")]]))
    assert found.shape == (3, number_encoding_size(2))
    first, second, known = found[:, :N_BINS], found[:, N_BINS : 2 * N_BINS], found[:, -2:]
    assert first[0].tolist() == [1, 1, 0.5] + [0] * 13  # bins of ten
    assert first[1].tolist() == [0] * N_BINS
    assert first[2].tolist() == [1] * N_BINS
    # where all examples agree a bin is a step
    assert second[0].tolist() == [0] * N_BINS
    assert second[1].tolist() == [1] * N_BINS
    assert known.tolist() == [[1, 1], [0, 1], [1, 0]]


def test_encoding_of_numbers_that_no_example_knows():
    encoding = NumberEncoding(1)
    encoding.fit(torch.full((5, 1), float("nan")))
    assert torch.isfinite(encoding(torch.tensor([[3.0], [float("nan")]]))).all()


def test_recall_counts_events_above_so_many_false_alarms():
    logit = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    is_event = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    assert [recall_at(logit, is_event, n) for n in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_kept_weights_are_the_mean_over_the_steps():
    """The learning rate falls to 0, so the mean lags behind the last weights, on the way from the first ones."""
    lagging = replace(SETTINGS, average_decay=0.999, epochs=2)
    kept = fit_model(build("mlp"), with_context(1), lagging).model
    last = fit_model(build("mlp"), with_context(1), replace(lagging, average_decay=None)).model

    def distance(one, two):
        pairs = zip(one.parameters(), two.parameters(), strict=True)
        return sum((a - b).detach().square().sum().item() for a, b in pairs)

    assert 0 < distance(kept, last) < distance(build("mlp"), last)


def test_the_mean_forgets_the_first_weights():
    model = torch.nn.Linear(1, 1, bias=False)
    averaging = AveragedWeights(model, decay=0.9)
    for step in range(60):
        torch.nn.init.constant_(model.weight, -100.0 if step == 0 else 1.0)
        averaging.on_step_end(None, None, None)
    assert averaging.averaged.module.weight.item() == pytest.approx(1.0, abs=1e-2)
