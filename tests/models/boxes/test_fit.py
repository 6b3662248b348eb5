from __future__ import annotations

import numpy as np
import pytest
import torch

from shutterless.models.boxes.fit import (
    build_box_detector,
    copy_detector,
    find_in_tiles,
    fit_boxes,
    fit_by_fields,
    highest_scores,
)
from shutterless.models.boxes.judge import judge_boxes
from shutterless.models.boxes.settings import BoxTrainingSettings
from shutterless.models.boxes.tiles import TileError

from .conftest import QUICK, SMALL, make_bars, views_of


def test_bars_that_were_not_learned_from_are_found(learned):
    model, losses = learned
    assert losses["loss"].iloc[-1] < 0.5 * losses["loss"].iloc[0]
    assert not model.training
    unseen = make_bars(40, seed=9)
    judged = judge_boxes(find_in_tiles(model, unseen), unseen.boxes, "bar")
    assert judged.n_true == 20
    assert judged.precision_at(0.9) > 0.9


def test_with_attention_the_loss_falls_to_half_in_ten_passes(bars):
    losses = fit_boxes(build_box_detector(**SMALL), bars, BoxTrainingSettings(epochs=10, learning_rate=1e-2))
    assert losses["epoch"].tolist() == list(range(1, 11))
    assert losses["loss"].iloc[-1] < 0.5 * losses["loss"].iloc[0]


def test_tiles_with_a_bar_are_harder_than_empty_ones(learned):
    scores = highest_scores(learned[0], make_bars(40, seed=9).pixels)
    assert np.median(scores[::2]) > scores[1::2].max()


def test_a_copy_keeps_the_kinds_it_knows(learned):
    model, _ = learned
    copy = copy_detector(model, ["new", "bar"])
    torch.testing.assert_close(copy.kind.weight[1], model.kind.weight[0])
    pixels = views_of(make_bars(2).pixels)
    with torch.inference_mode():
        torch.testing.assert_close(copy(pixels).object_logits, model(pixels).object_logits)
    assert copy.config.kinds == ["new", "bar"]
    assert copy.config.training == {}
    assert model.config.kinds == ["bar", "blob"]


def test_the_same_seed_gives_the_same_weights_and_leaves_other_draws_alone(bars):
    few = bars.take(np.arange(8))
    torch.manual_seed(3)
    models = [build_box_detector(**SMALL) for _ in range(2)]
    for model in models:
        fit_boxes(model, few, BoxTrainingSettings(epochs=2))
    first = torch.rand(1)
    torch.manual_seed(3)
    assert torch.rand(1) == first
    for one, other in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_each_field_gets_a_detector_that_never_saw_it(bars, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "shutterless.models.boxes.fit.fit_boxes", lambda model, tiles, settings: seen.append(set(tiles.fields))
    )
    fields = [field for field, _ in fit_by_fields(lambda: build_box_detector(**SMALL), bars, QUICK)]
    assert fields == ["field 0", "field 1", "field 2"]
    assert seen == [{"field 1", "field 2"}, {"field 0", "field 2"}, {"field 0", "field 1"}]


def test_boxes_of_one_field_cannot_be_held_out(bars):
    with pytest.raises(TileError, match=r"all boxes are in the field \['field 1'\]"):
        next(fit_by_fields(build_box_detector, bars.take(np.flatnonzero(bars.fields == "field 1")), QUICK))
