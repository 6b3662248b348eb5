"""Scores come in order, repeat to the bit, and are calibrated."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy.special import expit

from shutterless.models.dataset import strips_to_tensors
from shutterless.models.families import build_model
from shutterless.models.inputs import FeatureError
from shutterless.models.scoring import SCORE_COLUMNS, calibrate_model, choose_device, score_strips
from shutterless.pipeline.events.kinds import KINDS
from shutterless.pipeline.tokens import GridError, StripBatch, TokenGrid

from .conftest import random_strips


def test_table_holds_the_output_of_the_model(model, strips):
    table = score_strips(model, strips, batch_size=3, device="cpu")
    with torch.inference_mode():
        output = model(**strips_to_tensors(strips))
    assert tuple(table.columns) == SCORE_COLUMNS
    np.testing.assert_allclose(table["event_logit"], output.event_logit, atol=2e-5)
    np.testing.assert_allclose(table["probability"], expit(output.event_logit.numpy()), atol=1e-5)
    assert table["kind"].tolist() == [KINDS[i] for i in output.kind_logits.argmax(-1)]
    np.testing.assert_allclose(table["kind_probability"], output.kind_logits.softmax(-1).amax(-1), atol=1e-5)


def test_scoring_changes_nothing_and_repeats_to_the_bit(model, strips):
    """The scores repeat after other strips and among twice as many, because batches are cut from the start."""
    weights = {name: values.clone() for name, values in model.state_dict().items()}
    first = score_strips(model, strips, batch_size=7, device="cpu")
    score_strips(model, random_strips(5, seed=9), batch_size=2, device="cpu")
    twice = StripBatch(**{f.name: np.concatenate([getattr(strips, f.name)] * 2) for f in fields(strips)})
    again = score_strips(model, twice, batch_size=7, device="cpu")
    assert again[:7].equals(first)
    assert again[7:].reset_index(drop=True).equals(first)
    assert [name for name, values in model.state_dict().items() if not torch.equal(values, weights[name])] == []
    for f in fields(strips):
        np.testing.assert_array_equal(getattr(strips, f.name), getattr(random_strips(7), f.name))


def test_scores_do_not_depend_on_the_callers_threads(model, strips):
    n_threads = torch.get_num_threads()
    tables = []
    for n in (1, 2):
        torch.set_num_threads(n)
        tables.append(score_strips(model, strips, device="cpu"))
        assert torch.get_num_threads() == n
    torch.set_num_threads(n_threads)
    assert tables[0].equals(tables[1])


def test_training_mode_is_given_back_and_does_not_show(family, grid, strips):
    """Dropout must not reach the scores of a model that is still in training mode."""
    model = build_model(family, grid, {"dropout": 0.5})
    expected = score_strips(model, strips, device="cpu")
    model.train()
    assert score_strips(model, strips, device="cpu").equals(expected)
    assert model.training


def test_no_strips_give_an_empty_table_with_all_columns(model, strips):
    empty, full = score_strips(model, strips[:0], device="cpu"), score_strips(model, strips, device="cpu")
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


def test_calibration_is_used(model, strips):
    model.config.calibration_slope, model.config.calibration_intercept = 0.0, np.log(3)
    assert score_strips(model, strips, device="cpu")["probability"].tolist() == pytest.approx([0.75] * 7)


def test_calibrated_probabilities_have_the_observed_mean(model):
    """A model without knowledge of labels drawn at 30 %: after calibration its mean probability is 30 %."""
    strips = random_strips(400)
    logit = score_strips(model, strips, device="cpu")["event_logit"].to_numpy()
    calibrate_model(model, logit, np.random.default_rng(0).random(400) < 0.3)
    assert score_strips(model, strips, device="cpu")["probability"].mean() == pytest.approx(0.3, abs=0.06)


def test_other_grid_is_refused_though_the_shapes_fit(model, strips, grid):
    """Shapes do not depend on the binning, so only the grid shows it."""
    other = TokenGrid(grid.n_y, grid.n_columns, grid.n_rows, grid.patch_rows, bins=(1, 4))
    with pytest.raises(GridError, match=r"the batch of strips has .*bins=\(1, 4\).*expects .*bins=\(1,\)"):
        score_strips(model, strips, device="cpu", grid=other)


def test_other_features_are_refused_though_their_number_fits(model, strips):
    model.config.feature_names = ["loudness", *model.config.feature_names[1:]]
    with pytest.raises(FeatureError, match=r"trained with features \['loudness', .*stage 1 computes \['snr'"):
        score_strips(model, strips, device="cpu")


def test_device_is_chosen():
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
