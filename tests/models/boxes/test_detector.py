from __future__ import annotations

import numpy as np
import pytest
import torch

from shutterless.models.boxes.configuration import BoxDetectorConfig
from shutterless.models.boxes.fit import build_box_detector
from shutterless.models.configuration import ConfigurationError

from .conftest import SMALL, views_of


@pytest.mark.parametrize("attention", [True, False])
def test_every_cell_of_a_batch_answers_and_as_it_does_alone(bars, attention):
    model = build_box_detector(seed=2, **{**SMALL, "attention": attention})
    views = views_of(bars.pixels[:3])
    with torch.inference_mode():
        together, alone = model(views), model(views[1:2])
    assert together.loss is None
    assert together.object_logits.shape == (3, 16)
    assert together.kind_logits.shape == (3, 16, 2)
    assert together.boxes.shape == (3, 16, 6)
    for name in ("object_logits", "kind_logits", "boxes"):
        torch.testing.assert_close(together[name][1:2], alone[name], rtol=1e-4, atol=1e-5)


def test_the_unit_of_an_image_makes_no_difference(bars):
    model = build_box_detector(**SMALL)
    views, scaled = views_of(bars.pixels[:2]), views_of(1000 * bars.pixels[:2])
    with torch.inference_mode():
        torch.testing.assert_close(model(views).object_logits, model(scaled).object_logits)


def test_an_image_without_any_value_has_answers():
    with torch.inference_mode():
        assert build_box_detector(**SMALL)(views_of(np.full((1, 64, 64), np.nan))).object_logits.isfinite().all()


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigurationError, match="tile_px 100 is no multiple of 16"):
        BoxDetectorConfig(tile_px=100)
    with pytest.raises(ConfigurationError, match=r"channels \[8, 8, 10\]: give three, the last one a multiple"):
        BoxDetectorConfig(channels=[8, 8, 10], n_heads=2)
