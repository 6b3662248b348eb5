"""Boxes that are turned: their corners, how much two of them overlap, and which of many are one object.

A box is five numbers: ``x``, ``y`` of its centre, ``length`` along its longer axis, ``width`` across it, in pixels, and
``angle``, in radians from the x axis towards the y axis, of the longer axis, from -π/2 to π/2.
"""

from __future__ import annotations

import numba
import numpy as np
import pandas as pd

GEOMETRY_COLUMNS = ("x", "y", "length", "width", "angle")  # of a box, in tables
_MOST_CORNERS = 16  # of the polygon that two boxes share: 8 at most, and room while it is cut


def box_corners(boxes: np.ndarray) -> np.ndarray:
    """Corners in their order around each box.

    Parameters
    ----------
    boxes : ndarray of float64, shape (n, 5)

    Returns
    -------
    ndarray of float64, shape (n, 4, 2)
        x and y.
    """
    x, y, length, width, angle = np.asarray(boxes, dtype=np.float64).reshape(-1, 5).T
    along = np.stack([np.cos(angle), np.sin(angle)], -1) * (length / 2)[:, None]
    across = np.stack([-np.sin(angle), np.cos(angle)], -1) * (width / 2)[:, None]
    centre = np.stack([x, y], -1)
    return np.stack([centre + a * along + b * across for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1))], 1)


def enclose_points(x: np.ndarray, y: np.ndarray, half_pixel: float = 0.5) -> np.ndarray:
    """Box along the principal axis of points that holds all of them.

    Parameters
    ----------
    x, y : ndarray of float64, shape (n,)
    half_pixel : float
        Added on every side.

    Returns
    -------
    ndarray of float64, shape (5,)
    """
    points = np.stack([x, y], -1).astype(np.float64)
    centre = points.mean(0)
    covariance = np.cov((points - centre).T, bias=True) if len(points) > 1 else np.zeros((2, 2))
    axis = np.linalg.eigh(covariance)[1][:, 1]
    turned = (points - centre) @ np.array([[axis[0], -axis[1]], [axis[1], axis[0]]])
    low, high = turned.min(0) - half_pixel, turned.max(0) + half_pixel
    middle = (low + high) / 2 @ np.array([[axis[0], axis[1]], [-axis[1], axis[0]]]) + centre
    return order_sides(np.array([[*middle, *(high - low), np.arctan2(axis[1], axis[0])]]))[0]


def enclose_boxes(boxes: np.ndarray) -> np.ndarray:
    """Box (5,) along the principal axis of the corners of boxes (n, 5) that holds all of them."""
    corners = box_corners(boxes).reshape(-1, 2)
    return enclose_points(corners[:, 0], corners[:, 1], half_pixel=0.0)


def enclose_groups(boxes: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group boxes: each encloses several pieces of one object.

    Parameters
    ----------
    boxes : ndarray of float64, shape (n, 5)
    groups : ndarray of int64, shape (n,)
        Pieces of one object share a number; a negative one is of no group.

    Returns
    -------
    numbers : ndarray of int64, shape (m,)
        Groups of at least two boxes.
    enclosing : ndarray of float64, shape (m, 5)
    """
    numbers, counts = np.unique(groups[groups >= 0], return_counts=True)
    numbers = numbers[counts > 1]
    enclosing = [enclose_boxes(boxes[groups == number]) for number in numbers]
    return numbers, np.array(enclosing, dtype=np.float64).reshape(-1, 5)


def group_boxes(boxes: pd.DataFrame) -> pd.DataFrame:
    """Table of the group boxes of an image.

    Parameters
    ----------
    boxes : DataFrame
        `GEOMETRY_COLUMNS`, ``kind``, ``group``, and ``confidence`` or ``score``.

    Returns
    -------
    DataFrame
        The same columns, with the kind of the first piece and the grade of the best, and ``n_boxes``.
    """
    grade = "confidence" if "confidence" in boxes else "score"
    numbers, enclosing = enclose_groups(boxes[list(GEOMETRY_COLUMNS)].to_numpy(float), boxes["group"].to_numpy(int))
    by_group = boxes.groupby("group")
    pieces = by_group[["kind"]].first().join(by_group[grade].max()).assign(n_boxes=by_group.size())
    table = pd.DataFrame(enclosing, columns=list(GEOMETRY_COLUMNS)).assign(group=numbers)
    return table.join(pieces, on="group")[[*GEOMETRY_COLUMNS, "kind", grade, "group", "n_boxes"]]


def order_sides(boxes: np.ndarray) -> np.ndarray:
    """The same boxes with the longer side first and the angle from -π/2 to π/2."""
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 5)
    upright = boxes[:, 3] > boxes[:, 2]
    boxes[upright, 2:4] = boxes[upright, 3:1:-1]
    boxes[:, 4] = (boxes[:, 4] + np.where(upright, np.pi / 2, 0) + np.pi / 2) % np.pi - np.pi / 2
    return boxes


def box_overlaps(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas that boxes share with others.

    Parameters
    ----------
    one, other : ndarray of float64, shapes (n, 5) and (m, 5)

    Returns
    -------
    iou : ndarray of float64, shape (n, m)
        Shared area over the area of both together.
    inside : ndarray of float64, shape (n, m)
        Shared area over that of the first box.
    """
    one, other = (np.asarray(boxes, dtype=np.float64).reshape(-1, 5) for boxes in (one, other))
    shared = _shared_areas(box_corners(one), box_corners(other))
    area, other_area = one[:, 2] * one[:, 3], other[:, 2] * other[:, 3]
    return shared / (area[:, None] + other_area - shared), shared / area[:, None]


def suppress_overlapping(boxes: np.ndarray, scores: np.ndarray, most: float) -> np.ndarray:
    """Positions of the boxes that no better one covers, the best first (non-maximum suppression).

    Parameters
    ----------
    boxes : ndarray of float64, shape (n, 5)
    scores : ndarray of float64, shape (n,)
    most : float
        Largest part of the smaller of two boxes that the other may cover.
    """
    order = np.argsort(-scores, kind="stable")
    if not len(order):
        return order
    _, inside = box_overlaps(boxes, boxes)
    covered = np.maximum(inside, inside.T) > most
    left = np.ones(len(boxes), dtype=bool)
    kept = []
    for index in order:
        if left[index]:
            kept.append(index)
            left &= ~covered[index]
    return np.array(kept, dtype=np.int64)


@numba.njit(cache=True, nogil=True)
def _shared_areas(one, other):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Area of the polygon that each pair of convex quadrangles shares (Sutherland & Hodgman 1974, CACM 17, 32)."""
    areas = np.zeros((len(one), len(other)))
    polygon, cut = np.empty((_MOST_CORNERS, 2)), np.empty((_MOST_CORNERS, 2))
    for i in range(len(one)):
        for j in range(len(other)):
            n = 4
            polygon[:4] = one[i]
            for k in range(4):
                a, b = other[j, k], other[j, (k + 1) % 4]
                n = _cut_polygon(polygon, n, a[0], a[1], b[0] - a[0], b[1] - a[1], cut)
                polygon[:n] = cut[:n]
            twice = 0.0
            for k in range(n):
                p, q = polygon[k], polygon[(k + 1) % n]
                twice += p[0] * q[1] - p[1] * q[0]
            areas[i, j] = abs(twice) / 2
    return areas


@numba.njit(cache=True, nogil=True)
def _cut_polygon(polygon, n, x, y, dx, dy, cut):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Keep the part of a polygon to the left of a line; the number of its corners."""
    kept = 0
    for k in range(n):
        p, q = polygon[k], polygon[(k + 1) % n]
        here = dx * (p[1] - y) - dy * (p[0] - x)
        there = dx * (q[1] - y) - dy * (q[0] - x)
        if here >= 0:
            cut[kept, 0], cut[kept, 1] = p[0], p[1]
            kept += 1
        if (here >= 0) != (there >= 0):
            share = here / (here - there)
            cut[kept, 0], cut[kept, 1] = p[0] + share * (q[0] - p[0]), p[1] + share * (q[1] - p[1])
            kept += 1
    return kept


def turn_boxes(boxes: np.ndarray, size_px: int, quarter_turns: int, mirrored: bool) -> np.ndarray:
    """Boxes of a square image after ``numpy.rot90(image, quarter_turns)`` and, then, ``image[:, ::-1]``.

    Parameters
    ----------
    boxes : ndarray of float64, shape (n, 5)
    size_px : int
        Of the image; pixel 0 has its centre at 0.
    quarter_turns : int
    mirrored : bool
    """
    turned = np.array(boxes, dtype=np.float64).reshape(-1, 5)
    last = size_px - 1
    for _ in range(quarter_turns % 4):  # (y, x) goes to (last - x, y)
        turned[:, 0], turned[:, 1] = turned[:, 1].copy(), last - turned[:, 0]
        turned[:, 4] -= np.pi / 2
    if mirrored:
        turned[:, 0] = last - turned[:, 0]
        turned[:, 4] *= -1
    return order_sides(turned)


def scale_boxes(boxes: np.ndarray, factor: float) -> np.ndarray:
    """Boxes in pixels that are ``factor`` times smaller; the corner of the first pixel stays at -1/2."""
    scaled = np.array(boxes, dtype=np.float64).reshape(-1, 5)
    scaled[:, :2] = (scaled[:, :2] + 0.5) * factor - 0.5
    scaled[:, 2:4] *= factor
    return scaled
