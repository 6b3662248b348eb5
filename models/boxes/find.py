"""Find boxes in images of any size: score tiles, merge what several of them saw, join the pieces of a trail."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import torch

from shutterless.models.boxes.configuration import CELL_PX
from shutterless.models.boxes.detector import BoxDetector
from shutterless.models.boxes.targets import cell_centres, decode_boxes
from shutterless.models.boxes.tiles import tile_starts
from shutterless.models.boxes.views import BIN_PX, bin_pixels
from shutterless.pipeline.detection.matching import number_groups
from shutterless.pipeline.oriented_boxes import (
    GEOMETRY_COLUMNS,
    box_overlaps,
    enclose_boxes,
    suppress_overlapping,
)

FOUND_COLUMNS = (*GEOMETRY_COLUMNS, "kind", "score", "group")
LEAST_SCORE = 0.05
MOST_COVERED = 0.25  # of the smaller of two boxes of a kind: more, and they are one
_TILES_AT_ONCE = 16
_EDGE_CELLS = 1  # of a tile inside its image that are left to the next tile, which sees more
_JOIN_ANGLE_RAD, _JOIN_GAP_PX, _JOIN_ACROSS_PX = 0.06, 48.0, 6.0  # pieces of one straight trail
LINES = frozenset({"trail"})


@torch.inference_mode()
def find_boxes(model: BoxDetector, image: np.ndarray, least_score: float = LEAST_SCORE) -> pd.DataFrame:
    """Objects in an image.

    Parameters
    ----------
    model : BoxDetector
        In evaluation mode.
    image : ndarray, shape (y, x)
        In any unit; NaN where there is no value.
    least_score : float

    Returns
    -------
    DataFrame
        `FOUND_COLUMNS`, the best first: pixels of the image from 0, the angle in radians, and the probability that
        there is an object of this kind. Boxes with the same ``group`` are of one kind and closer than a cell: pieces
        of one object.
    """
    binned = bin_pixels(_fill_up(image, model.config.tile_px))
    rows, columns = (tile_starts(n, model.config.tile_px) for n in image.shape)
    places = list(product(rows, columns))
    parts = []
    for first in range(0, len(places), _TILES_AT_ONCE):
        parts += _answers(model, binned, places[first : first + _TILES_AT_ONCE], image.shape, least_score)
    boxes, kinds, scores = (np.concatenate(values) for values in zip(*parts, strict=True))
    return _merge(boxes, kinds, scores, list(model.config.kinds or ()))


def _fill_up(image: np.ndarray, tile_px: int) -> np.ndarray:
    """The image with nothing beyond its far borders, up to the end of the last tile."""
    beyond = [tile_starts(n, tile_px)[-1] + tile_px - n for n in image.shape]
    return np.pad(image.astype(np.float32), [(0, n) for n in beyond], constant_values=np.nan)


def _answers(
    model: BoxDetector, binned: np.ndarray, places: list[tuple[int, int]], shape: tuple[int, ...], least_score: float
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Boxes, kinds and scores of the tiles at some places, in pixels of the image."""
    tile_px = model.config.tile_px
    side = tile_px // BIN_PX
    tiles = [binned[:, y // BIN_PX : y // BIN_PX + side, x // BIN_PX : x // BIN_PX + side] for y, x in places]
    output = model(torch.from_numpy(np.stack(tiles)))
    objects = output.object_logits.sigmoid()  # (b, n)
    kinds = output.kind_logits.softmax(-1)  # (b, n, k)
    centres = cell_centres(tile_px // CELL_PX)
    found = []
    for k, (top, left) in enumerate(places):
        probability = (objects[k, :, None] * kinds[k]).numpy().astype(np.float64)
        kind = probability.argmax(1)
        score = probability.max(1)
        kept = (score >= least_score) & _is_own(centres, top, left, tile_px, shape)
        boxes = decode_boxes(output.boxes[k].numpy()[kept], centres[kept])
        boxes[:, :2] += left, top
        found.append((boxes, kind[kept], score[kept]))
    return found


def _is_own(centres: np.ndarray, top: int, left: int, tile_px: int, shape: tuple[int, ...]) -> np.ndarray:
    """Cells of a tile that are not at a border beyond which the image goes on, and lie in the image."""
    margin = _EDGE_CELLS * CELL_PX
    own = np.ones(len(centres), dtype=bool)
    for place, first, n in ((centres[:, 0], left, shape[1]), (centres[:, 1], top, shape[0])):
        low = margin if first > 0 else 0
        high = tile_px - margin if first + tile_px < n else min(tile_px, n - first)
        own &= (place >= low) & (place < high)
    return own


def _merge(boxes: np.ndarray, kinds: np.ndarray, scores: np.ndarray, names: list[str]) -> pd.DataFrame:
    tables = []
    for number, name in enumerate(names):
        of_kind = kinds == number
        kept = suppress_overlapping(boxes[of_kind], scores[of_kind], MOST_COVERED)
        own, score = boxes[of_kind][kept], scores[of_kind][kept]
        if name in LINES:
            own, score = join_lines(own, score)
        table = pd.DataFrame(own, columns=list(GEOMETRY_COLUMNS)).assign(kind=name, score=score)
        tables.append(table.assign(group=_groups(own) + 1_000_000 * number))
    found = pd.concat(tables, ignore_index=True).sort_values("score", ascending=False, ignore_index=True)
    return found.assign(group=pd.factorize(found["group"])[0])[list(FOUND_COLUMNS)]


def join_lines(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join boxes that continue each other on one straight line; the score of the best stands for all.

    Parameters
    ----------
    boxes : ndarray of float64, shape (n, 5)
    scores : ndarray of float64, shape (n,)
    """
    label = number_groups(_continuing(boxes), len(boxes))
    joined = []
    for one in np.unique(label):
        members = boxes[label == one]
        if len(members) == 1:
            joined.append(members[0])
            continue
        longest = members[np.argmax(members[:, 2])]
        box = enclose_boxes(members)
        joined.append([*box[:3], longest[3], box[4]])
    best = [float(scores[label == one].max()) for one in np.unique(label)]
    order = np.argsort(-np.array(best), kind="stable")
    return np.array(joined, dtype=np.float64).reshape(-1, 5)[order], np.array(best)[order]


def _continuing(boxes: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of boxes that lie on one line, and touch or nearly do."""
    x, y, length, width, angle = boxes.T[:, :, None]
    turn = np.abs((angle - angle.T + np.pi / 2) % np.pi - np.pi / 2)
    direction = np.where(length >= length.T, angle, angle.T)
    dx, dy = x.T - x, y.T - y
    along = np.abs(dx * np.cos(direction) + dy * np.sin(direction))
    across = np.abs(dy * np.cos(direction) - dx * np.sin(direction))
    reach = np.minimum(width, width.T) / 2 + _JOIN_ANGLE_RAD / 2 * np.minimum(length, length.T)
    near = (across <= _JOIN_ACROSS_PX + reach) & (along <= (length + length.T) / 2 + _JOIN_GAP_PX)
    return [(int(a), int(b)) for a, b in np.argwhere((turn <= _JOIN_ANGLE_RAD) & near) if b < a]


def _groups(boxes: np.ndarray) -> np.ndarray:
    """Number of the group of each box; boxes that are closer than a cell are one group."""
    if not len(boxes):
        return np.zeros(0, dtype=np.int64)
    larger = boxes + np.array([0, 0, CELL_PX, CELL_PX, 0])
    shared = box_overlaps(larger, larger)[0] > 0
    pairs = [(int(a), int(b)) for a, b in np.argwhere(shared) if a < b]
    return number_groups(pairs, len(boxes))
