"""What the network is to answer in each cell, and how wrong its answers are.

A cell that holds the middle of an object is to say so, with its kind and its box. Other cells inside a box may say
either; so a box need not be right to a pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional
from transformers.loss.loss_for_object_detection import (
    center_to_corners_format,
    generalized_box_iou,
    sigmoid_focal_loss,
)

from shutterless.models.boxes.configuration import CELL_PX
from shutterless.pipeline.oriented_boxes import enclose_groups, order_sides

UNIT_PX = 32.0  # in which sizes are given to the network, as logarithms
BOX_OUTPUTS = 6  # two offsets, two logarithms of sizes, cosine and sine of twice the angle
_CORE = 0.35  # share of a box's length and width, around its middle, whose cells are to answer


class CellTargets(NamedTuple):
    """Answers wanted of the cells of one tile.

    Parameters
    ----------
    weight : float32, shape (n,)
        Of a cell in the loss; 0 where either answer is right.
    is_object : float32, shape (n,)
    kind : int64, shape (n,)
    box : float32, shape (n, 6)
        Encoded, see `encode_boxes`.
    """

    weight: np.ndarray
    is_object: np.ndarray
    kind: np.ndarray
    box: np.ndarray


def cell_centres(n_cells: int) -> np.ndarray:
    """x and y of the middles of all cells of a tile, row by row, shape (n, 2)."""
    middle = (np.arange(n_cells) + 0.5) * CELL_PX - 0.5
    return np.stack([axis.ravel() for axis in np.meshgrid(middle, middle)], -1)


def assign_cells(
    boxes: np.ndarray, kinds: np.ndarray, confidence: np.ndarray, n_cells: int, groups: np.ndarray | None = None
) -> CellTargets:
    """Answers wanted of the cells of a tile; of boxes that share a cell the smallest gets it.

    Parameters
    ----------
    boxes : ndarray of float64, shape (k, 5)
    kinds : ndarray of int64, shape (k,)
    confidence : ndarray of float64, shape (k,)
        Weight of each label.
    n_cells : int
        Along a side.
    groups : ndarray of int64, shape (k,), optional
        Pieces of one object share a number; between them either answer is right. Negative: of no group.
    """
    centres = cell_centres(n_cells)
    n = len(centres)
    targets = CellTargets(
        np.ones(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.int64), np.zeros((n, BOX_OUTPUTS), np.float32)
    )
    largest_first = np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")
    enclosing = enclose_groups(boxes, groups)[1] if groups is not None else np.zeros((0, 5))
    for box in [*boxes, *enclosing]:
        targets.weight[_inside(box, centres, 1.0)] = 0
    for index in largest_first:
        cells = np.flatnonzero(_inside(boxes[index], centres, _CORE))
        nearest = int(np.argmin(((centres - boxes[index, :2]) ** 2).sum(1)))
        cells = np.union1d(cells, nearest)
        targets.weight[cells] = confidence[index]
        targets.is_object[cells] = 1
        targets.kind[cells] = kinds[index]
        targets.box[cells] = encode_boxes(boxes[index][None], centres[cells])
    return targets


def _inside(box: np.ndarray, points: np.ndarray, share: float) -> np.ndarray:
    """Whether points lie in the part of a box around its middle that has this share of both its sides."""
    x, y, length, width, angle = box
    dx, dy = points[:, 0] - x, points[:, 1] - y
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    return (np.abs(along) <= share * length / 2) & (np.abs(across) <= share * width / 2)


def encode_boxes(boxes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Boxes (n, 5) as the outputs of cells with centres (n, 2): float32 (n, 6)."""
    boxes = np.broadcast_to(boxes, (len(centres), 5))
    offsets = (boxes[:, :2] - centres) / CELL_PX
    sizes, twice = np.log(boxes[:, 2:4] / UNIT_PX), 2 * boxes[:, 4]
    return np.concatenate([offsets, sizes, np.cos(twice)[:, None], np.sin(twice)[:, None]], 1).astype(np.float32)


def decode_boxes(encoded: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Inverse of `encode_boxes`; sizes are kept between 1 and 4,096 pixels."""
    sizes = np.exp(np.clip(encoded[:, 2:4].astype(np.float64), -np.log(UNIT_PX), np.log(4096 / UNIT_PX))) * UNIT_PX
    angle = np.arctan2(encoded[:, 5], encoded[:, 4]) / 2
    return order_sides(np.concatenate([encoded[:, :2] * CELL_PX + centres, sizes, angle[:, None]], 1))


def detection_loss(
    object_logits: torch.Tensor, kind_logits: torch.Tensor, boxes: torch.Tensor, targets: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """Loss of the answers of a batch.

    Parameters
    ----------
    object_logits : tensor, shape (b, n)
    kind_logits : tensor, shape (b, n, k)
    boxes : tensor, shape (b, n, 6)
    targets : tuple of tensor
        The fields of `CellTargets`, each with a first axis b.

    Notes
    -----
    The focal loss of Lin et al. 2017 (arXiv:1708.02002) for objects, cross-entropy for kinds. For boxes smooth L1 of
    their places and sizes, the generalized IoU of Rezatofighi et al. 2019 (arXiv:1902.09630) of their lying twins, and
    1 - cos 2Δ for an angle that is off by Δ, the less the rounder the box. Means are over the cells with an object.
    """
    weight, is_object, kind, wanted = (torch.flatten(values, 0, 1) for values in targets)
    n_objects = is_object.sum().clamp(min=1)
    counted = weight > 0
    objects = sigmoid_focal_loss(
        object_logits.flatten()[counted][None], is_object[counted][None], n_objects / counted.sum()
    )
    here = (is_object > 0) & counted
    if not here.any():
        return objects
    own, found, wanted = weight[here], boxes.flatten(0, 1)[here], wanted[here]
    kinds = functional.cross_entropy(kind_logits.flatten(0, 1)[here], kind[here], reduction="none")
    places = functional.smooth_l1_loss(found[:, :4], wanted[:, :4], reduction="none", beta=0.2).sum(1)
    overlap = generalized_box_iou(_lying(found), _lying(wanted)).diagonal()
    direction = functional.normalize(found[:, 4:6], dim=1)
    slender = 1 - (wanted[:, 3] - wanted[:, 2]).exp()
    turned = slender * (1 - (direction * wanted[:, 4:6]).sum(1))
    return objects + (own * (kinds + places + (1 - overlap) + turned)).sum() / n_objects


def _lying(encoded: torch.Tensor) -> torch.Tensor:
    """Corners (x0, y0, x1, y1) of the boxes, turned to angle 0, in units of cells."""
    sizes = encoded[:, 2:4].clamp(-4, 5).exp() * (UNIT_PX / CELL_PX)
    corners: torch.Tensor = center_to_corners_format(torch.cat([encoded[:, :2], sizes], 1))  # type: ignore[arg-type,assignment]
    return corners
