"""The loss and the pooling, solved by hand."""

import math
from importlib import resources

import numpy as np
import pytest
import torch
from torch.nn import functional

from shutterless.models.families import build_model, load_model
from shutterless.models.inputs import InputScaling, compress
from shutterless.models.outputs import (
    ONSET_BETA,
    AttentionPool,
    DetectorHead,
    DetectorOutput,
    detector_loss,
    detector_readings,
)
from shutterless.models.scoring import score_strips
from shutterless.models.tasks import TaskError, mean_error

from .conftest import GRID, random_strips

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
    """A score that rises steeply with the content puts all weight on the one bright position, at 3/4."""
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


def test_heads_are_built_from_their_tasks():
    found = {name: (r.task.name, r.n_outputs, r.loss_name, r.beta) for name, r in detector_readings(5).items()}
    assert found == {
        "event": ("binary", 1, "binary cross-entropy", 1.0),
        "kind": ("multiclass", 5, "cross-entropy", 1.0),
        "onset": ("regression", 1, "smooth L1", ONSET_BETA),
        "log2_duration": ("regression", 1, "smooth L1", 1.0),
    }
    head = DetectorHead(summary_size=3, n_features=2, n_kinds=5)
    shapes = {name: tuple(weights.shape) for name, weights in head.state_dict().items()}
    assert shapes == {
        **{"event.weight": (1, 5), "event.bias": (1,), "kind.weight": (5, 5), "kind.bias": (5,)},
        **{"onset.weight": (1, 5), "onset.bias": (1,), "log2_duration.weight": (1, 5), "log2_duration.bias": (1,)},
    }


def test_a_detector_of_one_kind_is_refused():
    with pytest.raises(TaskError, match=r"multiclass: softmax of one output is always 1"):
        build_model("mlp", GRID, kinds=["burst"])


def test_loss_is_to_the_bit_that_of_the_four_terms_written_out():
    """The sum over the tasks has the same terms in the same order as in the training of the stored models."""
    generator = torch.Generator().manual_seed(3)
    event, kinds, onset, duration = (torch.randn(*size, generator=generator) for size in ((9,), (9, 4), (9,), (9,)))
    output = DetectorOutput(event_logit=event, kind_logits=kinds, onset=onset, log2_duration=duration)
    is_event, kind = (torch.arange(9) % 2).float(), torch.arange(9) % 4
    labels = [torch.where(is_event > 0, values, torch.nan) for values in torch.rand(2, 9, generator=generator)]
    expected = (
        WEIGHTS["event"] * functional.binary_cross_entropy_with_logits(event, is_event)
        + WEIGHTS["kind"] * functional.cross_entropy(kinds, kind)
        + WEIGHTS["onset"] * mean_error(onset, labels[0], beta=ONSET_BETA)
        + WEIGHTS["log2_duration"] * mean_error(duration, labels[1], beta=1.0)
    )
    assert torch.equal(detector_loss(output, is_event, kind, *labels, weights=WEIGHTS), expected)


def test_bundled_model_scores_to_the_bit_what_its_stored_weights_say():
    """Every reading is a matrix product with the weights stored under its own name."""
    model = load_model(str(resources.files("shutterless.models.weights") / "transformer"))
    strips = random_strips(5, model.grid)
    tensors = {name: torch.from_numpy(getattr(strips, name)) for name in strips.__dataclass_fields__}
    stored = model.state_dict()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in scoring: the number of threads changes the last digits of sums
    with torch.inference_mode():
        inputs = model.scaling(**tensors)
        joined = torch.cat([model.summarise(inputs), inputs.features], -1)
        found = {
            name: functional.linear(joined, stored[f"head.{name}.weight"], stored[f"head.{name}.bias"]).double().numpy()
            for name in ("event", "kind", "onset", "log2_duration")
        }
        probability = functional.linear(joined, stored["head.kind.weight"], stored["head.kind.bias"]).softmax(-1)
    torch.set_num_threads(threads)
    scores = score_strips(model, strips, device="cpu")
    np.testing.assert_array_equal(scores["event_logit"], found["event"][:, 0])
    np.testing.assert_array_equal(scores["onset"], found["onset"][:, 0])
    np.testing.assert_array_equal(scores["log2_duration"], found["log2_duration"][:, 0])
    np.testing.assert_array_equal(scores["kind_probability"], probability.double().numpy().max(1))
    assert scores["kind"].tolist() == [model.config.kinds[i] for i in found["kind"].argmax(1)]
