from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shutterless.pipeline.oriented_boxes import box_overlaps
from shutterless.pipeline.simulation.difference_images import (
    BOX_KINDS,
    LEAST_SNR,
    DifferenceSettings,
    draw_difference_field,
    simulate_tile,
)
from shutterless.pipeline.simulation.settings import SceneError

NOTHING = DifferenceSettings(
    n_pixels=128, stars=(0, 0), bad_columns=0, trails=0, ghosts=0, background_sigma=(0, 0), noise_scale_px=(0, 0)
)


def tile_of(settings, n_echoes=0, seed=1):
    rng = np.random.default_rng(seed)
    return simulate_tile(rng, draw_difference_field(rng, settings), n_echoes)


@pytest.mark.parametrize("noise_scale_px", [0.0, 0.7])
def test_a_tile_of_nothing_is_noise_of_one_sigma(noise_scale_px):
    tile = tile_of(replace(NOTHING, noise_scale_px=(noise_scale_px, noise_scale_px)))
    assert tile.image.shape == (128, 128)
    assert tile.image.std() == pytest.approx(1.0, abs=0.02)
    neighbours = np.corrcoef(tile.image[:, 1:].ravel(), tile.image[:, :-1].ravel())[0, 1]
    assert neighbours == pytest.approx(np.exp(-0.25 / noise_scale_px**2) if noise_scale_px else 0.0, abs=0.05)
    assert len(tile.boxes) == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_light_of_an_echo_lies_in_its_box(seed):
    settings = replace(NOTHING, echo_sigma=(30, 30), echo_length_px=(60, 60))
    tile = tile_of(settings, n_echoes=1, seed=seed)
    (box,) = tile.boxes.to_dict("records")
    assert box["kind"] == "echo"
    assert box["snr"] > LEAST_SNR
    y, x = np.mgrid[:128, :128]
    along = (x - box["x"]) * np.cos(box["angle"]) + (y - box["y"]) * np.sin(box["angle"])
    across = (y - box["y"]) * np.cos(box["angle"]) - (x - box["x"]) * np.sin(box["angle"])
    inside = (np.abs(along) <= box["length"] / 2 + 1) & (np.abs(across) <= box["width"] / 2 + 1)
    assert (tile.image[inside] ** 2).mean() > 5
    assert (tile.image[~inside] ** 2).mean() == pytest.approx(1.0, abs=0.05)


def test_what_is_too_faint_for_a_box_is_left_out():
    rng = np.random.default_rng(5)
    settings = replace(NOTHING, echo_sigma=(0.01, 0.02))
    tile = simulate_tile(rng, draw_difference_field(rng, settings), 3)
    assert len(tile.boxes) == 0
    assert tile.image.std() == pytest.approx(1.0, abs=0.02)


def test_a_star_leaves_as_much_dark_as_bright_and_no_light():
    tile = tile_of(replace(NOTHING, stars=(3, 3), star_sigma=(500, 600)), seed=2)
    assert set(tile.boxes["kind"]) == {"artefact"}
    bright, dark = tile.image[tile.image > 50].sum(), -tile.image[tile.image < -50].sum()
    assert 0.3 < bright / dark < 3


def test_a_bad_column_is_one_pixel_wide():
    tile = tile_of(replace(NOTHING, bad_columns=3.0), seed=3)
    for box in tile.boxes.to_dict("records"):
        rows = slice(round(box["y"] - box["length"] / 2 + 0.5), round(box["y"] + box["length"] / 2 + 0.5))
        column = tile.image[rows, round(box["x"])]
        assert abs(column.mean()) > 1.5


def test_all_kinds_appear_and_the_same_seed_gives_the_same_tile():
    busy = replace(DifferenceSettings(n_pixels=128), trails=1.0, ghosts=1.0, bad_columns=1.0)
    kinds = {kind for seed in range(12) for kind in tile_of(busy, 2, seed).boxes["kind"]}
    assert kinds == set(BOX_KINDS)
    one, other = tile_of(busy, 2, 7), tile_of(busy, 2, 7)
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_allclose(np.diag(box_overlaps(one.boxes.iloc[:, :5], other.boxes.iloc[:, :5])[0]), 1.0)


def test_a_range_that_falls_is_refused():
    with pytest.raises(SceneError, match="the smallest comes first"):
        DifferenceSettings(echo_sigma=(3, 1))
