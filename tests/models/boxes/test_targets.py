from __future__ import annotations

import numpy as np
import pytest
import torch

from shutterless.models.boxes.targets import (
    CellTargets,
    assign_cells,
    cell_centres,
    decode_boxes,
    detection_loss,
    encode_boxes,
)

BOX = np.array([[40.0, 24.0, 40.0, 12.0, 0.3]])


def test_cells_are_counted_row_by_row_from_the_first_pixel():
    assert cell_centres(2).tolist() == [[7.5, 7.5], [23.5, 7.5], [7.5, 23.5], [23.5, 23.5]]


def test_boxes_survive_encoding():
    rng = np.random.default_rng(1)
    boxes = np.stack([*rng.uniform(0, 64, (2, 20)), *np.sort(rng.uniform(2, 300, (2, 20)), 0)[::-1],
                      rng.uniform(-1.5, 1.5, 20)], 1)  # fmt: skip
    centres = rng.uniform(0, 64, (20, 2))
    np.testing.assert_allclose(decode_boxes(encode_boxes(boxes, centres), centres), boxes, rtol=1e-5, atol=1e-4)


def test_the_cells_around_the_middle_answer_and_others_inside_need_not():
    targets = assign_cells(BOX, np.array([1]), np.array([0.5]), 4)
    # of the cells with centres 7.5, 23.5, 39.5, 55.5 that at (39.5, 23.5) is the middle; (23.5, 23.5) is inside
    assert np.flatnonzero(targets.is_object).tolist() == [6]
    assert targets.weight[6] == 0.5
    assert targets.kind[6] == 1
    assert 5 in np.flatnonzero(targets.weight == 0)
    assert targets.weight[15] == 1
    np.testing.assert_allclose(decode_boxes(targets.box[[6]], cell_centres(4)[[6]]), BOX, rtol=1e-5)


def test_of_two_boxes_in_a_cell_the_smaller_is_wanted():
    small = np.array([40.0, 24.0, 10.0, 4.0, 0.0])
    targets = assign_cells(np.stack([small, BOX[0]]), np.array([0, 1]), np.ones(2), 4)
    assert targets.kind[6] == 0


def answers_of(targets, logit, n_kinds=2):
    """Answers that are right where an object is; ``logit`` is how sure they are."""
    right = torch.from_numpy(targets.is_object)[None]
    kinds = torch.nn.functional.one_hot(torch.from_numpy(targets.kind), n_kinds)[None].float()
    return (2 * right - 1) * logit, (2 * kinds - 1) * logit, torch.from_numpy(targets.box)[None].clone()


def as_batch(targets):
    return tuple(torch.from_numpy(values)[None] for values in targets)


def test_right_answers_cost_nothing_and_each_error_costs_something():
    targets = assign_cells(BOX, np.array([1]), np.ones(1), 4)
    objects, kinds, boxes = answers_of(targets, 20.0)
    assert detection_loss(objects, kinds, boxes, as_batch(targets)).item() == pytest.approx(0, abs=1e-4)
    shifted, turned, missed = boxes.clone(), boxes.clone(), objects.clone()
    shifted[..., 0] += 1
    turned[..., 4:] *= -1  # by a quarter turn
    missed[0, 6] *= -1
    slender = 1 - 12 / 40
    assert detection_loss(objects, kinds, turned, as_batch(targets)).item() == pytest.approx(2 * slender, abs=1e-3)
    assert detection_loss(objects, kinds, shifted, as_batch(targets)).item() > 0.5
    assert detection_loss(objects, -kinds, boxes, as_batch(targets)).item() > 10
    assert detection_loss(missed, kinds, boxes, as_batch(targets)).item() > 1


def test_cells_without_weight_do_not_count_and_an_empty_batch_has_a_loss():
    targets = assign_cells(BOX, np.array([1]), np.ones(1), 4)
    objects, kinds, boxes = answers_of(targets, 20.0)
    objects[0, targets.weight == 0] *= -1
    assert detection_loss(objects, kinds, boxes, as_batch(targets)).item() == pytest.approx(0, abs=1e-4)
    empty = assign_cells(np.zeros((0, 5)), np.zeros(0, np.int64), np.zeros(0), 4)
    assert isinstance(empty, CellTargets)
    assert detection_loss(-objects.abs(), kinds, boxes, as_batch(empty)).item() == pytest.approx(0, abs=1e-4)


def test_between_the_pieces_of_one_object_either_answer_is_right():
    pieces = np.array([[8.0, 24.0, 14.0, 10.0, 0.0], [56.0, 24.0, 14.0, 10.0, 0.0]])
    kinds, confidence = np.zeros(2, np.int64), np.ones(2)
    apart = assign_cells(pieces, kinds, confidence, 4, np.array([-1, -1]))
    joined = assign_cells(pieces, kinds, confidence, 4, np.array([5, 5]))
    # of the second row of cells the middle two, with centres at x = 23.5 and 39.5, lie between the pieces
    assert apart.weight[4:8].tolist() == [1, 1, 1, 1]
    assert joined.weight[4:8].tolist() == [1, 0, 0, 1]
    assert joined.is_object.tolist() == apart.is_object.tolist()
