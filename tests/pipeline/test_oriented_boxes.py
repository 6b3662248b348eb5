from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.oriented_boxes import (
    GEOMETRY_COLUMNS,
    box_corners,
    box_overlaps,
    enclose_points,
    group_boxes,
    order_sides,
    scale_boxes,
    suppress_overlapping,
    turn_boxes,
)

LYING = [10.0, 5.0, 8.0, 2.0, 0.0]


def test_corners_of_a_lying_and_of_a_standing_box():
    assert box_corners(np.array([LYING])).tolist() == [[[14, 6], [6, 6], [6, 4], [14, 4]]]
    standing = box_corners(np.array([[10, 5, 8, 2, np.pi / 2]]))[0]
    np.testing.assert_allclose(sorted(standing.tolist()), [[9, 1], [9, 9], [11, 1], [11, 9]], atol=1e-12)


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (LYING, 16.0),
        ([14.0, 5.0, 8.0, 2.0, 0.0], 8.0),
        ([10.0, 5.0, 8.0, 2.0, np.pi / 2], 4.0),
        ([10.0, 5.0, np.sqrt(2), np.sqrt(2), np.pi / 4], 2.0),  # a diamond of half diagonal 1 inside
        ([30.0, 5.0, 8.0, 2.0, 0.3], 0.0),
    ],
)
def test_overlap_of_two_boxes_is_that_of_school_geometry(other, shared):
    iou, inside = box_overlaps(np.array([LYING]), np.array([other]))
    area = other[2] * other[3]
    assert inside[0, 0] == pytest.approx(shared / 16)
    assert iou[0, 0] == pytest.approx(shared / (16 + area - shared))


def test_overlap_of_turned_boxes_agrees_with_counted_points():
    rng = np.random.default_rng(1)
    boxes = np.stack([*rng.uniform(20, 40, (2, 12)), *rng.uniform(5, 30, (2, 12)), rng.uniform(-1.5, 1.5, 12)], 1)
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(0, 60, 0.1), np.arange(0, 60, 0.1)))
    covers = []
    for cx, cy, length, width, angle in boxes:
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        across = -(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
        covers.append((np.abs(along) <= length / 2) & (np.abs(across) <= width / 2))
    counted = np.array([[(a & b).sum() / (a | b).sum() for b in covers] for a in covers])
    np.testing.assert_allclose(box_overlaps(boxes, boxes)[0], counted, atol=0.01)


def test_points_are_enclosed_along_their_principal_axis():
    box = enclose_points(np.arange(0, 11.0), np.arange(0, 11.0))
    np.testing.assert_allclose(box, [5, 5, 10 * np.sqrt(2) + 1, 1, np.pi / 4])
    assert enclose_points(np.array([3.0]), np.array([4.0]))[:4].tolist() == [3, 4, 1, 1]


def test_the_longer_side_comes_first():
    np.testing.assert_allclose(order_sides(np.array([[0, 0, 2, 8, 0.1]])), [[0, 0, 8, 2, 0.1 - np.pi / 2]])
    np.testing.assert_allclose(order_sides(np.array([[0, 0, 8, 2, 3.2]])), [[0, 0, 8, 2, 3.2 - np.pi]])


def test_of_overlapping_boxes_the_best_is_kept():
    boxes = np.array([LYING, [10.5, 5.0, 8.0, 2.0, 0.0], [40.0, 5.0, 8.0, 2.0, 0.0], [10.0, 5.0, 2.0, 1.0, 0.0]])
    assert suppress_overlapping(boxes, np.array([0.5, 0.9, 0.1, 0.8]), 0.5).tolist() == [1, 2]
    assert suppress_overlapping(boxes[:0], np.array([]), 0.5).tolist() == []


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_boxes_turn_with_their_image(quarter_turns, mirrored):
    image = np.zeros((32, 32))
    image[4:7, 10:25] = 1  # three rows of fifteen
    image[7, 24] = 1  # and a corner that tells left from right
    y, x = np.nonzero(image)
    turned_image = np.rot90(image, quarter_turns)
    turned_image = turned_image[:, ::-1] if mirrored else turned_image
    y_turned, x_turned = np.nonzero(turned_image)
    turned = turn_boxes(enclose_points(x, y), 32, quarter_turns, mirrored)
    np.testing.assert_allclose(turned[0], enclose_points(x_turned, y_turned), atol=1e-9)


def test_boxes_of_coarser_pixels():
    np.testing.assert_allclose(scale_boxes(np.array([[1.5, 3.5, 4, 2, 0.3]]), 0.5), [[0.5, 1.5, 2, 1, 0.3]])


PIECES = pd.DataFrame(
    [(10.0, 20.0, 8.0, 4.0, 0.0, "echo", 0.5, 3), (40.0, 20.0, 8.0, 2.0, 0.0, "echo", 0.75, 3),
     (90.0, 90.0, 8.0, 2.0, 0.0, "echo", 1.0, 4), (95.0, 95.0, 8.0, 2.0, 0.0, "echo", 1.0, -1),
     (99.0, 99.0, 8.0, 2.0, 0.0, "echo", 1.0, -1)],
    columns=[*GEOMETRY_COLUMNS, "kind", "confidence", "group"],
)  # fmt: skip


def test_a_group_box_holds_the_pieces_of_one_object():
    (box,) = group_boxes(PIECES).to_dict("records")
    # along x from 10 - 4 to 40 + 4, across it the wider piece
    expected = {"x": 25, "y": 20, "length": 38, "width": 4, "angle": 0, "confidence": 0.75, "group": 3, "n_boxes": 2}
    assert {name: box[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert box["kind"] == "echo"


def test_without_pieces_there_is_no_group_box():
    alone = group_boxes(PIECES.iloc[2:].rename(columns={"confidence": "score"}))
    assert len(alone) == 0
    assert list(alone.columns) == [*GEOMETRY_COLUMNS, "kind", "score", "group", "n_boxes"]
    assert len(group_boxes(PIECES.iloc[:0])) == 0
