from __future__ import annotations

import numpy as np
import pytest

from shutterless.models.boxes.find import FOUND_COLUMNS, _groups, find_boxes, join_lines
from shutterless.pipeline.oriented_boxes import box_overlaps


def test_what_several_tiles_see_is_found_once_in_pixels_of_the_image(learned):
    image = np.random.default_rng(4).standard_normal((120, 150)).astype(np.float32)
    bars = np.array([[49.5, 59.5, 30.0, 6.0, 0.0], [119.5, 29.5, 30.0, 6.0, -np.pi / 2]])
    image[57:63, 35:65] += 5
    image[15:45, 117:123] += 5
    found = find_boxes(learned[0], image, 0.3)
    assert list(found.columns) == list(FOUND_COLUMNS)
    assert len(found) == 2
    iou, _ = box_overlaps(bars, found[list(FOUND_COLUMNS[:5])])
    assert iou.max(1).min() > 0.5
    assert found["group"].nunique() == 2


def test_boxes_closer_than_a_cell_are_one_group():
    boxes = np.array([[20.0, 60, 30, 6, 0], [60, 60, 30, 6, 0], [100, 66, 30, 6, 0], [60, 110, 30, 6, 0]])
    assert _groups(boxes).tolist() == [0, 0, 0, 1]  # gaps of 10 pixels along, of 44 across
    assert _groups(boxes[[0, 2]]).tolist() == [0, 1]
    assert _groups(np.zeros((0, 5))).shape == (0,)


def test_an_image_of_noise_and_one_of_nothing_hold_nothing(learned):
    noise = np.random.default_rng(5).standard_normal((100, 64)).astype(np.float32)
    assert len(find_boxes(learned[0], noise, 0.5)) == 0
    assert len(find_boxes(learned[0], np.full((64, 64), np.nan), 0.5)) == 0


def test_pieces_of_a_line_become_one_and_others_stay():
    angle = 0.5
    pieces = [[100 + s * np.cos(angle), 100 + s * np.sin(angle), 60, 5, angle] for s in (0, 50, 120)]
    crossing, aside = [100, 100, 60, 5, -0.5], [100, 160, 60, 5, angle]
    boxes, scores = join_lines(np.array([*pieces, crossing, aside]), np.array([0.3, 0.9, 0.5, 0.8, 0.2]))
    assert scores.tolist() == [0.9, 0.8, 0.2]
    assert boxes[0, 2] == pytest.approx(180, abs=1)  # from -30 to 150
    assert boxes[0, 3] == 5
    assert boxes[0, 4] == pytest.approx(angle, abs=0.01)
    assert join_lines(np.zeros((0, 5)), np.zeros(0))[0].shape == (0, 5)
