from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shutterless.models.boxes.targets import cell_centres, decode_boxes
from shutterless.models.boxes.tiles import (
    TileDataset,
    TileError,
    clip_boxes,
    cut_tiles,
    join_tiles,
    tile_starts,
    tiles_of_image,
)
from shutterless.pipeline.oriented_boxes import box_overlaps

COLUMNS = ["x", "y", "length", "width", "angle", "kind", "confidence", "group"]


@pytest.mark.parametrize(
    ("n_pixels", "expected"), [(50, [0]), (64, [0]), (65, [0, 16]), (112, [0, 32, 48]), (160, [0, 32, 64, 96])]
)
def test_tiles_cover_an_axis_and_overlap_by_two_cells(n_pixels, expected):
    assert tile_starts(n_pixels, 64) == expected


def test_an_image_smaller_than_a_tile_is_filled_up_with_nothing():
    ((y, x, part),) = cut_tiles(np.ones((20, 30)), 64)
    assert (y, x, part.shape) == (0, 0, (64, 64))
    assert np.isfinite(part).sum() == 600


def test_a_box_is_cut_along_its_length():
    boxes = np.array([[60.0, 20.0, 40.0, 4.0, 0.0], [20.0, 20.0, 10.0, 4.0, 1.0], [90.0, 20.0, 10.0, 4.0, 0.0]])
    clipped, share = clip_boxes(boxes, 64)
    np.testing.assert_allclose(clipped[0], [51.75, 20, 23.5, 4, 0])  # from column 40 to the border at 63.5
    np.testing.assert_allclose(clipped[1], boxes[1])
    np.testing.assert_allclose(share, [23.5 / 40, 1, 0])


def test_each_tile_of_an_image_gets_the_boxes_that_it_holds():
    image = np.zeros((64, 112), np.float32)
    boxes = pd.DataFrame([(20, 30, 20, 6, 0.0, "bar", 1.0, 0), (100, 30, 20, 6, 0.0, "bar", 0.5, 1)], columns=COLUMNS)
    tiles = tiles_of_image(image, boxes, "f", 64)
    assert tiles.pixels.shape == (3, 64, 64)
    assert tiles.boxes[["tile", "x", "group"]].to_numpy().tolist() == [[0, 20, 0], [2, 52, 1]]
    both = join_tiles([tiles, tiles.take(np.array([2]))])
    assert both.boxes["tile"].tolist() == [0, 2, 3]
    assert len(tiles.without_kind("bar").boxes) == 0


@pytest.mark.parametrize("turn", [True, False])
def test_turned_and_mirrored_tiles_have_their_boxes_where_the_light_is(bars, turn):
    dataset = TileDataset(bars, ["bar"], empty_share=0.5, turn=turn, seed=3)
    for index in range(len(dataset.boxed)):
        item = dataset[index]
        cell = int(np.flatnonzero(item["is_object"].numpy())[0])
        box = decode_boxes(item["box"].numpy()[[cell]], cell_centres(4)[[cell]])
        light = np.clip(item["views"][4].numpy() - 1, 0, None)  # means of 4 × 4 pixels
        middle = [4 * float((light.sum(axis) * np.arange(16)).sum() / light.sum()) + 1.5 for axis in (0, 1)]
        assert box_overlaps(box, np.array([[*middle, *box[0, 2:]]]))[0][0, 0] > 0.6


def test_half_of_the_empty_tiles_of_a_pass_are_the_hardest(bars):
    dataset = TileDataset(bars, ["bar"], empty_share=0.25, turn=True, seed=1)
    assert dataset.n_empty == 10
    hardness = np.arange(len(dataset.empty), dtype=float)
    chosen = dataset.choose_empty(hardness)
    assert len(dataset) == 40
    assert set(dataset.empty[-5:]) <= set(chosen[30:])
    assert len(set(chosen)) == 40


def test_kinds_that_the_model_lacks_and_tiles_without_boxes_are_refused(bars):
    with pytest.raises(TileError, match=r"kinds \['bar'\] are unknown to the model, which has \['echo'\]"):
        TileDataset(bars, ["echo"], empty_share=0.5, turn=True, seed=1)
    with pytest.raises(TileError, match="none of 60 tiles has a box"):
        TileDataset(bars.without_kind("bar"), ["bar"], empty_share=0.5, turn=True, seed=1)
