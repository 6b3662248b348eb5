"""An easy task of the box detector: bright bars in noise, in tiles of 64 pixels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from shutterless.models.boxes.fit import build_box_detector, fit_boxes
from shutterless.models.boxes.settings import BoxTrainingSettings
from shutterless.models.boxes.tiles import TileSet
from shutterless.models.boxes.views import bin_pixels

TILE_PX = 64
SMALL = {"tile_px": TILE_PX, "channels": [8, 8, 16], "n_layers": 1, "n_heads": 2, "kinds": ["bar", "blob"]}
QUICK = BoxTrainingSettings(epochs=25, learning_rate=5e-3, batch_size=4)


def views_of(pixels):
    """Tiles as the network takes them."""
    return torch.from_numpy(np.stack([bin_pixels(one) for one in pixels]))


def make_bars(n_tiles, seed=0, tile_px=TILE_PX):
    """Every other tile has a bar of 30 × 6 pixels, 5 σ bright, lying or standing; the rest is noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.standard_normal((n_tiles, tile_px, tile_px)).astype(np.float32)
    rows = []
    for tile in range(0, n_tiles, 2):
        x, y = rng.integers(18, tile_px - 18, 2)
        standing = rng.random() < 0.5
        half_x, half_y = (3, 15) if standing else (15, 3)
        pixels[tile, y - half_y : y + half_y, x - half_x : x + half_x] += 5
        box = (x - 0.5, y - 0.5, 30.0, 6.0, -np.pi / 2 if standing else 0.0)
        rows.append((*box, "bar", 1.0, -1, tile))
    columns = ["x", "y", "length", "width", "angle", "kind", "confidence", "group", "tile"]
    fields = np.array([f"field {tile // 2 % 3}" for tile in range(n_tiles)], dtype=object)
    return TileSet(pixels, pd.DataFrame(rows, columns=columns), fields)


@pytest.fixture(scope="session")
def bars():
    return make_bars(60)


@pytest.fixture(scope="session")
def learned(bars):
    """A detector of bars, and the losses of its training; no test may change it. Without attention it learns faster."""
    model = build_box_detector(**{**SMALL, "attention": False})
    return model, fit_boxes(model, bars, QUICK)
