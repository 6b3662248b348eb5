"""Tiles with their boxes: what the network learns from, turned and mirrored so that noise stays noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from shutterless.models.boxes.configuration import CELL_PX
from shutterless.models.boxes.targets import assign_cells
from shutterless.models.boxes.views import bin_pixels
from shutterless.pipeline.oriented_boxes import GEOMETRY_COLUMNS, order_sides, turn_boxes

LEAST_INSIDE = 0.3  # share of a box's length that a tile must hold, or the box is left to the next tile


class TileError(ValueError):
    """Tiles or labels from which nothing can be learned."""


@dataclass(frozen=True, eq=False)
class TileSet:
    """Tiles and what they hold.

    Parameters
    ----------
    pixels : ndarray of float32 or float16, shape (n, y, x)
        NaN where there is no value.
    boxes : DataFrame
        `shutterless.pipeline.simulation.difference_images.BOX_COLUMNS`, and ``tile``, its position in ``pixels``.
    fields : ndarray of str, shape (n,)
        Field of each tile; those of one field are held out together.
    """

    pixels: np.ndarray
    boxes: pd.DataFrame
    fields: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, index: np.ndarray) -> TileSet:
        """Some of the tiles, in the order of ``index``."""
        place = pd.Series(np.arange(len(index)), index=index)
        boxes = self.boxes[self.boxes["tile"].isin(index)]
        return replace(
            self,
            pixels=self.pixels[index],
            fields=self.fields[index],
            boxes=boxes.assign(tile=boxes["tile"].map(place)),
        )

    def without_kind(self, kind: str) -> TileSet:
        """The same tiles; objects of a kind have no box and are background."""
        return replace(self, boxes=self.boxes[self.boxes["kind"] != kind])


def join_tiles(sets: Sequence[TileSet]) -> TileSet:
    """All tiles of several sets."""
    starts = np.cumsum([0, *(len(tiles) for tiles in sets[:-1])])
    boxes = [tiles.boxes.assign(tile=tiles.boxes["tile"] + start) for tiles, start in zip(sets, starts, strict=True)]
    return TileSet(
        np.concatenate([tiles.pixels for tiles in sets]),
        pd.concat(boxes, ignore_index=True),
        np.concatenate([tiles.fields for tiles in sets]),
    )


def tile_starts(n_pixels: int, tile_px: int) -> list[int]:
    """First pixels of tiles that cover one axis and overlap by two cells; one where the axis is shorter.

    The last tile ends up to a cell beyond the axis, so that all begin with a cell.
    """
    last = -(-max(n_pixels - tile_px, 0) // CELL_PX)
    step = max(tile_px // CELL_PX - 2, 1)
    return [CELL_PX * start for start in [*range(0, last, step), last]]


def cut_tiles(image: np.ndarray, tile_px: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Overlapping tiles of an image with the row and column of their first pixel; NaN beyond its borders."""
    for y in tile_starts(image.shape[0], tile_px):
        for x in tile_starts(image.shape[1], tile_px):
            part = image[y : y + tile_px, x : x + tile_px]
            if part.shape != (tile_px, tile_px):
                below, right = (tile_px - n for n in part.shape)
                part = np.pad(part.astype(np.float32), ((0, below), (0, right)), constant_values=np.nan)
            yield y, x, part


def clip_boxes(boxes: np.ndarray, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Parts of boxes along their longer axis whose middle line lies in a tile.

    Parameters
    ----------
    boxes : ndarray of float64, shape (n, 5)
        In pixels of the tile.
    size_px : int

    Returns
    -------
    boxes : ndarray of float64, shape (n, 5)
    share : ndarray of float64, shape (n,)
        Of the length that is left; 0 for a box outside.
    """
    x, y, length, width, angle = np.asarray(boxes, dtype=np.float64).reshape(-1, 5).T
    first, last = -length / 2, length / 2
    for place, step in ((x, np.cos(angle)), (y, np.sin(angle))):
        step = np.where(np.abs(step) < 1e-9, 1e-9, step)
        ends = np.sort(np.stack([(-0.5 - place) / step, (size_px - 0.5 - place) / step]), axis=0)
        first, last = np.maximum(first, ends[0]), np.minimum(last, ends[1])
    left, middle = np.maximum(last - first, 0), (first + last) / 2
    clipped = np.stack([x + middle * np.cos(angle), y + middle * np.sin(angle), left, width, angle], 1)
    return order_sides(clipped), left / length


def tiles_of_image(image: np.ndarray, boxes: pd.DataFrame, field: str, tile_px: int) -> TileSet:
    """Tiles of an image with the parts of the boxes that each holds.

    Parameters
    ----------
    image : ndarray of float32, shape (y, x)
    boxes : DataFrame
        ``x``, ``y``, ``length``, ``width``, ``angle`` in pixels of the image, and ``kind``, ``confidence``, ``group``.
    field : str
    tile_px : int
    """
    pixels, found = [], []
    for number, (top, left, part) in enumerate(cut_tiles(image, tile_px)):
        pixels.append(part.astype(np.float32))
        places = boxes[list(GEOMETRY_COLUMNS)].to_numpy(dtype=np.float64) - [left, top, 0, 0, 0]
        clipped, share = clip_boxes(places, tile_px)
        inside = share >= LEAST_INSIDE
        found.append(boxes[inside].assign(tile=number, **dict(zip(GEOMETRY_COLUMNS, clipped[inside].T, strict=True))))
    return TileSet(np.stack(pixels), pd.concat(found, ignore_index=True), np.full(len(pixels), field, dtype=object))


class TileDataset(Dataset):  # type: ignore[type-arg]
    """Tiles as the model takes them: mirrored and turned anew each time, with the answers wanted of the cells.

    Parameters
    ----------
    tiles : TileSet
    kinds : sequence of str
        Names of the model's kinds, by number.
    empty_share : float
        Largest share of tiles without a box in a pass.
    turn : bool
        Whether they are turned by quarters, too.
    seed : int
    """

    def __init__(self, tiles: TileSet, kinds: Sequence[str], *, empty_share: float, turn: bool, seed: int) -> None:
        unknown = sorted(set(tiles.boxes["kind"]) - set(kinds))
        if unknown:
            raise TileError(f"boxes of the kinds {unknown} are unknown to the model, which has {list(kinds)}")
        self.tiles, self.turn = tiles, turn
        self.rng = np.random.default_rng(seed)
        number = {kind: k for k, kind in enumerate(kinds)}
        self.labels: Mapping[int, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = {
            int(tile): (
                of_tile[list(GEOMETRY_COLUMNS)].to_numpy(dtype=np.float64),
                of_tile["kind"].map(number).to_numpy(dtype=np.int64),
                of_tile["confidence"].to_numpy(dtype=np.float64),
                of_tile["group"].to_numpy(dtype=np.int64),
            )
            for tile, of_tile in tiles.boxes.groupby("tile")
        }
        self.boxed = np.array(sorted(self.labels), dtype=np.int64)
        self.empty = np.setdiff1d(np.arange(len(tiles)), self.boxed)
        if not len(self.boxed):
            raise TileError(f"none of {len(tiles)} tiles has a box; label at least one")
        most = int(len(self.boxed) * empty_share / (1 - empty_share)) if empty_share < 1 else len(self.empty)
        self.n_empty = min(len(self.empty), max(most, 1) if empty_share else 0)
        self.chosen = self.choose_empty(np.zeros(len(self.empty)))

    def choose_empty(self, hardness: np.ndarray) -> np.ndarray:
        """Choose the tiles of a pass: all with boxes; of those without, half the hardest and half at random."""
        order = np.argsort(-hardness + 1e-6 * self.rng.random(len(hardness)), kind="stable")
        hardest, others = np.split(order, [self.n_empty // 2])
        random = self.rng.choice(others, self.n_empty - len(hardest), replace=False)
        self.chosen = np.concatenate([self.boxed, self.empty[hardest], self.empty[random]])
        return self.chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tile = int(self.chosen[index])
        pixels = self.tiles.pixels[tile]
        boxes, kinds, confidence, groups = self.labels.get(tile, _NOTHING)
        turns, mirrored = (int(self.rng.integers(4)) if self.turn else 0), bool(self.rng.random() < 0.5)
        pixels = np.rot90(pixels, turns)
        pixels = pixels[:, ::-1] if mirrored else pixels
        boxes = turn_boxes(boxes, len(pixels), turns, mirrored)
        targets = assign_cells(boxes, kinds, confidence, len(pixels) // CELL_PX, groups)
        values = {name: torch.from_numpy(value) for name, value in targets._asdict().items()}
        return {"views": torch.from_numpy(bin_pixels(pixels)), **values}


_NOTHING = (np.zeros((0, 5)), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))
