"""Attention, saliency and preferred inputs against analytic cases."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from shutterless.models.dataset import strips_to_tensors
from shutterless.models.explain.activation import maximise_activation, receptive_rows, strongest_kernels
from shutterless.models.explain.attention import attend, attention_rollout, spread_over_rows
from shutterless.models.explain.batches import ExplainError
from shutterless.models.explain.saliency import gradient_saliency, integrated_gradients
from shutterless.models.families import build_model
from shutterless.models.training.fit import fit_model
from shutterless.models.training.settings import TrainingSettings
from shutterless.pipeline.tokens import TokenGrid

GRID = TokenGrid(n_y=1, n_columns=5, n_rows=24, patch_rows=4, bins=(1,))
ARCH = {"hidden_size": 32, "n_layers": 2, "n_heads": 2, "mlp_size": 48}
CNN_ARCH = {"channels": [6, 8], "strides": [1, 2], "kernel_rows": 5, "hidden_size": 24}
SMALL = {"transformer": ARCH, "cnn": CNN_ARCH, "mlp": {"hidden_sizes": [48]}}


def random_attention(b=3, h=2, n=7, seed=0):
    return torch.rand((b, h, n, n), generator=torch.Generator().manual_seed(seed)).double().softmax(-1)


@pytest.fixture
def transformer():
    return build_model("transformer", GRID, ARCH, seed=3)


@pytest.fixture
def cnn():
    return build_model("cnn", GRID, CNN_ARCH, seed=3)


@pytest.fixture(params=sorted(SMALL))
def biased(request, strips):
    """A scaled model of each family with biases as after a training; a new one has none."""
    model = build_model(request.param, GRID, SMALL[request.param], seed=3)
    model.scaling.fit(strips)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith("bias"):
                values.normal_(0, 0.3, generator=generator)
    return model


def test_rollout_of_one_layer_is_half_attention_half_identity():
    attention = random_attention()
    expected = (attention.mean(1) + torch.eye(7)) / 2
    torch.testing.assert_close(attention_rollout([attention]), expected)


def test_rollout_of_two_layers_is_their_product_the_last_first():
    first, last = random_attention(seed=1), random_attention(seed=2)
    expected = attention_rollout([last]) @ attention_rollout([first])
    torch.testing.assert_close(attention_rollout([first, last]), expected)


def test_rollout_of_identity_is_identity():
    eye = torch.eye(4).expand(2, 3, 4, 4)
    torch.testing.assert_close(attention_rollout([eye, eye, eye]), torch.eye(4).expand(2, 4, 4))


def test_rows_of_a_rollout_sum_to_one():
    rolled = attention_rollout([random_attention(seed=seed) for seed in range(5)])
    torch.testing.assert_close(rolled.sum(-1), torch.ones(3, 7, dtype=torch.float64))


def test_rollout_of_no_layer_is_refused():
    with pytest.raises(ExplainError, match="rollout of 0 layers: give the attention of each layer"):
        attention_rollout([])


def test_attention_of_a_transformer_is_shared_out_among_its_tokens(transformer, strips):
    found = attend(transformer, strips, batch_size=3)
    assert found.rollout.shape == (7, 7, 7)  # 7 strips; token 0 and 6 patches
    assert found.rows.shape == (7, GRID.n_rows)
    for shares in (found.rollout, found.from_profile, found.from_pool, found.summary):
        np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(found.rows.sum(1) + found.summary[:, 0], 1, atol=1e-5)


def test_attention_is_the_same_in_batches(transformer, strips):
    np.testing.assert_allclose(attend(transformer, strips, batch_size=2).rollout, attend(transformer, strips).rollout,
                               atol=1e-6)  # fmt: skip


def test_asking_for_attention_leaves_the_model_as_it_was(transformer, strips):
    transformer.train()
    before = transformer.encoder.config._attn_implementation
    attend(transformer, strips)
    assert transformer.encoder.config._attn_implementation == before != "eager"
    assert transformer.training
    assert not transformer.encoder._forward_hooks
    assert not transformer.pool.score._forward_hooks


def test_masked_tokens_get_no_attention(transformer, strips):
    mask = strips.mask.copy()
    mask[:, -2:] = False
    found = attend(transformer, replace(strips, mask=mask))
    np.testing.assert_allclose(found.summary[:, -2:], 0, atol=1e-6)
    np.testing.assert_array_equal(found.rows[:, -8:] < 1e-6, True)


def test_no_strips_no_attention(transformer, strips):
    found = attend(transformer, strips[:0])
    assert found.rows.shape == (0, GRID.n_rows)


def test_only_transformers_attend(cnn, strips):
    with pytest.raises(ExplainError, match="CnnDetector has no attention between tokens: ask for its saliency"):
        attend(cnn, strips)


def test_a_patch_spreads_its_share_evenly_over_its_rows():
    shares = np.array([[0.5, 0.1, 0.4]])
    rows = spread_over_rows(shares, TokenGrid(n_columns=5, n_rows=8, patch_rows=4))
    np.testing.assert_allclose(rows, [[0.025] * 4 + [0.1] * 4])


def perceptron_with(weights, slope_of_snr):
    """A perceptron with a known event logit: given weights for every pixel, and one for the S/N."""
    model = build_model("mlp", GRID, {"hidden_sizes": []}, seed=1)
    with torch.no_grad():
        model.head.event.weight.zero_()
        tokens = torch.zeros(GRID.n_tokens, GRID.patch_size + GRID.patch_rows + 1)
        tokens[:, : GRID.patch_size] = torch.from_numpy(weights)
        model.head.event.weight[0, : tokens.numel()] = tokens.flatten()
        model.head.event.weight[0, -len(model.config.feature_names)] = slope_of_snr
    return model


def test_gradient_of_a_perceptron_is_its_weights_where_residuals_are_small(strips):
    weights = np.random.default_rng(3).standard_normal((GRID.n_tokens, GRID.patch_size)).astype(np.float32)
    quiet = replace(strips, patches=np.zeros_like(strips.patches), features=np.zeros_like(strips.features))
    found = gradient_saliency(perceptron_with(weights, 0.7), quiet)
    for patches in found.patches:
        np.testing.assert_allclose(patches, weights, rtol=1e-5)
    np.testing.assert_allclose(found.features, [[0.7] + [0] * 8] * 7, atol=1e-6)
    assert not found.context.any()
    assert not found.profile.any()


def test_attribution_of_a_perceptron_is_weight_times_input(strips):
    weights = np.random.default_rng(3).standard_normal((GRID.n_tokens, GRID.patch_size)).astype(np.float32)
    model = perceptron_with(weights, 0.7)
    found = integrated_gradients(model, strips, n_steps=1)
    scaled = model.scaling(**strips_to_tensors(strips))
    np.testing.assert_allclose(found.patches, weights * scaled.patches.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.features[:, 0], 0.7 * scaled.features[:, 0], atol=1e-6)


def test_gradient_is_what_a_little_more_light_changes(biased, strips):
    found, step = gradient_saliency(biased, strips), 1e-2
    for token, pixel in ((0, 0), (3, 7), (5, 19)):
        brighter, darker = strips.patches.copy(), strips.patches.copy()
        brighter[:, token, pixel] += step
        darker[:, token, pixel] -= step
        change = [gradient_saliency(biased, replace(strips, patches=p)).logit for p in (brighter, darker)]
        np.testing.assert_allclose(found.patches[:, token, pixel], (change[0] - change[1]) / (2 * step), atol=2e-3)


def test_attributions_sum_to_the_difference_of_the_logits(biased, strips):
    """Completeness (Sundararajan et al. 2017, proposition 1), to 0.005 of differences up to 2 logits."""
    found = integrated_gradients(biased, strips)
    total = sum(found.by_input().values())
    np.testing.assert_allclose(total, found.logit - found.baseline_logit, atol=5e-3)
    np.testing.assert_allclose(found.completeness_error, 0, atol=5e-3)
    assert np.abs(found.logit - found.baseline_logit).max() > 0.3


def test_what_lies_under_the_mask_gets_nothing(biased, strips):
    mask = strips.mask.copy()
    mask[:, 2] = False
    masked = replace(strips, mask=mask)
    for found in (gradient_saliency(biased, masked), integrated_gradients(biased, masked, n_steps=4)):
        assert not found.patches[:, 2].any()
        assert found.patches[:, 1].any()
        assert found.strip(GRID).shape == (7, 1, 5, 24)


def test_saliency_in_batches_is_the_same(biased, strips):
    whole, parts = gradient_saliency(biased, strips), gradient_saliency(biased, strips, batch_size=2)
    np.testing.assert_allclose(parts.patches, whole.patches, atol=1e-5)
    assert gradient_saliency(biased, strips[:0]).patches.shape == (0, GRID.n_tokens, GRID.patch_size)


@pytest.mark.usefixtures("one_thread")
def test_a_trained_model_decides_by_the_pulse(toy):
    """The toy's events are 8σ in the middle column, and so are the attributions."""
    model = build_model("cnn", GRID, {**CNN_ARCH, "channels": [16, 24], "dropout": 0.0}, seed=3)
    fit_model(model, toy, TrainingSettings(epochs=2, batch_size=64, learning_rate=5e-3, device="cpu"))
    events = toy.strips[np.flatnonzero(toy.labels.is_event > 0)[:40]]
    found = integrated_gradients(model, events, n_steps=32)
    by_column = found.strip(GRID).sum(axis=(1, 3))
    assert (by_column.argmax(1) == 2).mean() > 0.9
    assert np.median(by_column[:, 2] / (found.logit - found.baseline_logit)) > 0.5


def test_a_count_of_steps_below_one_is_refused(cnn, strips):
    with pytest.raises(ExplainError, match="n_steps 0: at least 1 is needed"):
        integrated_gradients(cnn, strips, n_steps=0)


def test_the_first_layers_optimum_is_its_own_weights(cnn):
    """The optimum of a linear activation at a given norm is the weights themselves (Cauchy and Schwarz)."""
    found = maximise_activation(cnn, norm=10.0)
    weights = cnn.convolutions[0].weight.detach()[:, :-1].numpy()  # the last channel is the mask, always 1
    length = np.linalg.norm(weights.reshape(6, -1), axis=1)
    expected = 10 * weights / length[:, None, None]
    np.testing.assert_allclose(found.best[:, 0], expected[:, :5], atol=5e-3)
    bias = cnn.convolutions[0].bias.detach().numpy()
    mask = cnn.convolutions[0].weight.detach()[:, -1].sum(1).numpy()
    np.testing.assert_allclose(found.activation, np.tile((10 * length + mask + bias)[:, None], 4), rtol=1e-5)
    np.testing.assert_allclose(found.agreement, 1, atol=1e-5)


def test_a_deeper_layer_is_beaten_by_no_random_input_of_that_norm(cnn):
    found = maximise_activation(cnn, 1, [2, 5], norm=6.0, n_starts=3)
    assert found.strips.shape == (2, 3, 1, 5, 9)  # 5 rows, then 5 at a stride of 1: 9
    norms = np.sqrt((found.strips**2).sum((2, 3, 4)) + (found.context**2).sum(2))
    np.testing.assert_allclose(norms, 6, rtol=1e-5)
    rivals = torch.randn((2000, 6, 9), generator=torch.Generator().manual_seed(4))
    rivals *= 6 / rivals.flatten(1).norm(dim=1)[:, None, None]
    maps = nn.functional.gelu(nn.functional.conv1d(torch.cat([rivals, torch.ones(2000, 1, 9)], 1),
                              cnn.convolutions[0].weight, cnn.convolutions[0].bias))  # fmt: skip
    answers = nn.functional.conv1d(maps, cnn.convolutions[1].weight, cnn.convolutions[1].bias).squeeze(-1)
    assert (found.activation.max(1) > answers[:, [2, 5]].max(0).values.detach().numpy()).all()


def test_preferred_inputs_are_the_same_every_time(cnn):
    first, second = (maximise_activation(cnn, 1, [0], n_steps=20, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.strips, second.strips)
    assert (maximise_activation(cnn, 1, [0], n_steps=20, seed=6).strips != first.strips).any()


def test_the_kernel_that_answers_most_is_named_first(cnn, strips):
    with torch.no_grad():
        cnn.convolutions[1].bias[5] += 50
        cnn.convolutions[1].bias[2] += 20
    assert strongest_kernels(cnn, strips, 1, n=2) == [5, 2]
    assert sorted(strongest_kernels(cnn, strips, 1)) == list(range(8))
    assert not cnn.convolutions[1]._forward_hooks
    with pytest.raises(ExplainError, match="no convolution 3: it has 2"):
        strongest_kernels(cnn, strips, 3)


def test_a_kernel_sees_the_rows_that_change_its_answer(cnn):
    """In the network itself, on 24 rows, the middle unit of layer 1 depends on 9 rows and no more."""
    assert [receptive_rows(cnn, layer) for layer in (0, 1)] == [5, 9]
    rows = torch.zeros(1, 7, 24, requires_grad=True)
    maps = cnn.convolutions[1](nn.functional.gelu(cnn.convolutions[0](rows)))
    (slope,) = torch.autograd.grad(maps[0, 0, 6], [rows])
    assert int((slope.abs().sum((0, 1)) > 0).sum()) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 2}, "no convolution 2: it has 2, numbered from 0"),
        ({"kernels": [1, 6]}, r"convolution 0 has no kernels \[6\]: it has 6"),
        ({"norm": 0.0, "n_starts": 0}, r"needs positive numbers: \{'norm': 0.0, 'n_starts': 0\}"),
    ],
)
def test_preferred_inputs_of_what_there_is_not_are_refused(cnn, options, message):
    with pytest.raises(ExplainError, match=message):
        maximise_activation(cnn, **options)


def test_only_cnns_have_kernels(transformer):
    with pytest.raises(ExplainError, match="TransformerDetector has no convolution kernels"):
        maximise_activation(transformer)
