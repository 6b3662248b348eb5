from __future__ import annotations

import pandas as pd
import pytest

from shutterless.models.boxes.judge import judge_boxes

COLUMNS = ["x", "y", "length", "width", "angle", "kind", "tile"]
TRUTH = pd.DataFrame([(10, 10, 8, 4, 0.0, "echo", 0), (50, 10, 8, 4, 0.0, "echo", 0), (10, 10, 8, 4, 0.0, "echo", 1)],
                     columns=COLUMNS)  # fmt: skip


def found(*rows):
    return pd.DataFrame(rows, columns=[*COLUMNS, "score"])


def test_precision_and_recall_of_three_right_boxes_of_five():
    judged = judge_boxes(
        found(
            (10, 10, 8, 4, 0.0, "echo", 1, 0.9),
            (30, 10, 8, 4, 0.0, "echo", 1, 0.8),  # nothing there
            (11, 10, 8, 4, 0.0, "echo", 0, 0.7),
            (10, 10, 8, 4, 0.0, "echo", 0, 0.6),  # found before
            (50, 10, 8, 4, 0.0, "trail", 0, 0.5),  # another kind
            (50, 11, 8, 4, 0.0, "echo", 0, 0.4),
        ),
        TRUTH,
        "echo",
    )
    assert judged.is_right.tolist() == [True, False, True, False, True]
    assert judged.precision.tolist() == [1, 1 / 2, 2 / 3, 2 / 4, 3 / 5]
    assert judged.recall.tolist() == [1 / 3, 1 / 3, 2 / 3, 2 / 3, 1]
    assert judged.precision_at(0.5) == pytest.approx(2 / 3)
    assert judged.threshold_at(0.5) == 0.7
    assert judged.precision_at(0.9) == pytest.approx(3 / 5)


def test_a_recall_that_is_never_reached_has_no_precision():
    judged = judge_boxes(found((10, 10, 8, 4, 0.0, "echo", 1, 0.9)), TRUTH, "echo")
    assert judged.precision_at(0.7) == 0
    assert judged.threshold_at(0.7) == 0
    nothing = judge_boxes(found(), TRUTH, "echo")
    assert (nothing.n_true, nothing.precision_at(0.1)) == (3, 0)


def test_a_box_between_the_pieces_of_one_object_is_neither_right_nor_wrong():
    boxes = found(
        (30, 10, 8, 4, 0.0, "echo", 0, 0.9),  # between both pieces of tile 0
        (10, 10, 8, 4, 0.0, "echo", 0, 0.8),
        (10, 10, 8, 4, 0.0, "echo", 0, 0.7),  # found before
        (30, 40, 8, 4, 0.0, "echo", 0, 0.6),  # nothing there
    )
    assert judge_boxes(boxes, TRUTH.assign(group=-1), "echo").is_right.tolist() == [False, True, False, False]
    judged = judge_boxes(boxes, TRUTH.assign(group=[1, 1, -1]), "echo")
    assert judged.is_right.tolist() == [True, False, False]
    assert judged.score.tolist() == [0.8, 0.7, 0.6]
