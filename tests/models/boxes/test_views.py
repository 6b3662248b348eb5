from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from shutterless.models.boxes.views import N_BINNED, N_VIEWS, bin_pixels, scale_views


def test_bins_of_an_image_of_sixteen_numbers():
    binned = bin_pixels(np.arange(16.0).reshape(4, 4))
    assert binned.shape == (N_BINNED, 1, 1)
    assert binned.ravel().tolist() == [2.5, 4.5, 10.5, 12.5, 7.5, 12.5, 2.5, 1.0]


def test_bins_are_those_of_torch():
    pixels = np.random.default_rng(1).standard_normal((32, 48)).astype(np.float32)
    pairs = functional.avg_pool2d(torch.from_numpy(pixels)[None, None], 2)
    expected = [functional.pixel_unshuffle(pairs, 2), functional.avg_pool2d(pairs, 2), functional.max_pool2d(pairs, 2)]
    found = torch.from_numpy(bin_pixels(pixels))
    torch.testing.assert_close(found[:6], torch.cat(expected, 1)[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[6], -functional.max_pool2d(-pairs, 2)[0, 0], rtol=1e-5, atol=1e-6)


def test_missing_pixels_count_as_nothing_and_are_told():
    pixels = np.ones((8, 4))
    pixels[:4], pixels[4, 0] = np.nan, np.inf
    assert bin_pixels(pixels)[:, 0, 0].tolist() == [0.0] * 8
    assert bin_pixels(pixels)[:, 1, 0].tolist() == [0.75, 1, 1, 1, 15 / 16, 1, 0.75, 15 / 16]


def test_noise_has_a_scatter_of_about_one_in_every_view_and_bright_light_is_compressed():
    pixels = 40 * np.random.default_rng(2).standard_normal((2, 64, 64))
    pixels[1, 30, 30] = 1e6
    views = scale_views(torch.from_numpy(np.stack([bin_pixels(one) for one in pixels])))
    assert views.shape == (2, N_VIEWS, 16, 16)
    assert views[0, :5].std().item() == pytest.approx(0.7, abs=0.1)  # compressed: x / sqrt(1 + |x|)
    assert 50 < views[1].max().item() < 150
    assert (views[:, 8] == 1).all()
