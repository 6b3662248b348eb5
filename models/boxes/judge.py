"""Judge found boxes against true ones: precision at every recall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from shutterless.pipeline.oriented_boxes import GEOMETRY_COLUMNS, box_overlaps, enclose_groups

# shared area over the area of both. Diffuse objects have no sharp border, and a box that is shifted by a quarter of its
# narrow side has 0.6 already
LEAST_IOU = 0.3
_MOSTLY = 0.5  # of a found box that a group box holds
_GEOMETRY = list(GEOMETRY_COLUMNS)


@dataclass(frozen=True, eq=False)
class JudgedBoxes:
    """Found boxes of one kind, judged.

    Parameters
    ----------
    score : ndarray of float64, shape (n,)
        The largest first.
    is_right : ndarray of bool, shape (n,)
    n_true : int
        True objects, found or not.
    """

    score: np.ndarray
    is_right: np.ndarray
    n_true: int

    @property
    def precision(self) -> np.ndarray:
        """Share of right boxes among those with at least the score of each."""
        return np.cumsum(self.is_right) / np.arange(1, len(self.is_right) + 1)

    @property
    def recall(self) -> np.ndarray:
        """Share of the true objects that are found at the score of each."""
        return np.cumsum(self.is_right) / max(self.n_true, 1)

    def precision_at(self, recall: float) -> float:
        """Largest precision at a threshold that finds at least this share; 0 if none does."""
        enough = self.recall >= recall
        return float(self.precision[enough].max()) if enough.any() else 0.0

    def threshold_at(self, recall: float) -> float:
        """Score of that precision; 0 if the share is never found."""
        enough = np.flatnonzero(self.recall >= recall)
        return float(self.score[enough[np.argmax(self.precision[enough])]]) if len(enough) else 0.0


def judge_boxes(found: pd.DataFrame, truth: pd.DataFrame, kind: str, least_iou: float = LEAST_IOU) -> JudgedBoxes:
    """Judge the found boxes of a kind; each true one is found once, and a second box on it is wrong.

    A box between the pieces of one object, which share a ``group``, is neither right nor wrong and does not count.

    Parameters
    ----------
    found : DataFrame
        ``x``, ``y``, ``length``, ``width``, ``angle``, ``kind``, ``score`` and ``tile``.
    truth : DataFrame
        The same without a score; ``group`` if it is known.
    kind : str
    least_iou : float
        Least overlap of two boxes that are one object.
    """
    found, truth = (table[table["kind"] == kind] for table in (found, truth))
    found = found.sort_values("score", ascending=False, kind="stable")
    right = pd.Series(False, index=found.index)
    counted = pd.Series(True, index=found.index)
    for tile, own in found.groupby("tile"):
        wanted = truth[truth["tile"] == tile]
        iou, _ = box_overlaps(own[_GEOMETRY].to_numpy(float), wanted[_GEOMETRY].to_numpy(float))
        left = iou.copy()
        between = _lie_in_groups(own[_GEOMETRY].to_numpy(float), wanted)
        for row, index in enumerate(own.index):
            best = int(np.argmax(left[row])) if left.shape[1] else -1
            if best >= 0 and left[row, best] >= least_iou:
                right[index] = True
                left[:, best] = 0
            elif between[row] and iou[row].max() < least_iou:
                counted[index] = False
    return JudgedBoxes(found["score"][counted].to_numpy(float), right[counted].to_numpy(bool), len(truth))


def _lie_in_groups(boxes: np.ndarray, truth: pd.DataFrame) -> np.ndarray:
    """Boxes that lie mostly in the group box of an object of several pieces."""
    groups = truth["group"].to_numpy(dtype=np.int64) if "group" in truth else np.full(len(truth), -1)
    _, enclosing = enclose_groups(truth[_GEOMETRY].to_numpy(float), groups)
    return np.asarray((box_overlaps(boxes, enclosing)[1] > _MOSTLY).any(1))
