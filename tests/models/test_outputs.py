"""The loss and the pooling, solved in the head."""

import math

import numpy as np
import pytest
import torch

from shutterless.models.inputs import InputScaling, compress
from shutterless.models.outputs import AttentionPool, DetectorOutput, detector_loss, mean_error

WEIGHTS = {"event": 1.0, "kind": 0.5, "onset": 1.0, "log2_duration": 0.1}


def undecided(n, n_kinds=4):
    zeros = torch.zeros(n)
    return DetectorOutput(event_logit=zeros, kind_logits=torch.zeros(n, n_kinds), onset=zeros, log2_duration=zeros)


def test_undecided_model_loses_the_entropy():
    """Logits of 0 cost ln 2 for two outcomes and ln 4 for four classes."""
    is_event, kind = torch.tensor([0.0, 1.0]), torch.tensor([0, 3])
    assert detector_loss(undecided(2), is_event, weights=WEIGHTS).item() == pytest.approx(math.log(2))
    with_kind = detector_loss(undecided(2), is_event, kind, weights=WEIGHTS)
    assert with_kind.item() == pytest.approx(math.log(2) + 0.5 * math.log(4))


def test_onset_and_duration_count_for_events_only():
    """One of two strips is an event: onset off by 0.5 costs 0.5 − 0.1/2, duration off by 3 costs 3 − 1/2."""
    nan = float("nan")
    is_event, kind = torch.tensor([0.0, 1.0]), torch.tensor([0, 1])
    loss = detector_loss(
        undecided(2), is_event, kind, torch.tensor([nan, 0.5]), torch.tensor([nan, 3.0]), weights=WEIGHTS
    )
    expected = math.log(2) + 0.5 * math.log(4) + 0.45 + 0.1 * 2.5
    assert loss.item() == pytest.approx(expected)


def test_batch_without_event_has_no_onset_error_and_a_finite_gradient():
    found = torch.tensor([1.0, 2.0], requires_grad=True)
    error = mean_error(found, torch.full((2,), float("nan")), beta=1.0)
    error.backward()
    assert error.item() == 0
    assert found.grad.tolist() == [0, 0]


def test_attention_pool_without_preference_is_the_mean():
    pool = AttentionPool(2)
    torch.nn.init.zeros_(pool.score.weight)
    sequence = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]]])
    assert pool(sequence)[0].tolist() == pytest.approx([3, 1, 0.5])
    masked = pool(sequence, torch.tensor([[True, True, False]]))
    assert masked[0].tolist() == pytest.approx([1.5, 0, 0.25])


def test_attention_pool_finds_the_position():
    """A score that grows steeply with the content puts all the weight on the one bright place, 3/4 of the way."""
    pool = AttentionPool(1)
    torch.nn.init.constant_(pool.score.weight, 50)
    sequence = torch.tensor([0.0, 0, 0, 1, 0]).reshape(1, 5, 1)
    assert pool(sequence)[0].tolist() == pytest.approx([1, 0.75])


def test_compression_keeps_noise_and_tames_cosmic_rays():
    values = compress(torch.tensor([0.5, -0.5, 1000, float("nan")]), 5.0)
    assert values[:2].tolist() == pytest.approx([0.5, -0.5], rel=0.002)
    assert values[2].item() == pytest.approx(5 * math.log(2 * 1000 / 5), rel=1e-4)
    assert values[3].item() == 0


def test_scaling_is_fitted_to_the_training_strips(strips):
    """Scaled features have mean 0 and variance 1; a constant feature becomes 0."""
    strips.features[:, 5] = 3
    scaling = InputScaling(strips.features.shape[1])
    scaling.fit(strips)
    inputs = scaling(**{k: torch.from_numpy(getattr(strips, k)) for k in strips.__dataclass_fields__})
    spread = inputs.features.std(0, correction=0).numpy()
    np.testing.assert_allclose(inputs.features.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.delete(spread, 5), 1, atol=1e-5)
    np.testing.assert_allclose(inputs.features[:, 5], 0, atol=1e-6)
    assert inputs.profile.mean().item() == pytest.approx(0, abs=1e-5)
    assert inputs.profile.std(correction=0).item() == pytest.approx(1, abs=1e-5)
