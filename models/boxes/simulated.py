"""Simulated tiles of difference images to learn from, and to be judged on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.models.boxes.tiles import TileSet
from shutterless.pipeline.simulation.difference_images import DifferenceSettings, draw_difference_field, simulate_tile


def simulate_tiles(
    seed: int, settings: DifferenceSettings, n_fields: int, tiles_per_field: int, echo_share: float = 0.5
) -> TileSet:
    """Simulate fields of difference images.

    Parameters
    ----------
    seed : int
        Fixes everything; another seed has other fields.
    settings : DifferenceSettings
    n_fields, tiles_per_field : int
    echo_share : float
        Share of the tiles with one to three pieces of a light echo.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, n_fields, tiles_per_field]))
    pixels: list[np.ndarray] = []
    boxes: list[pd.DataFrame] = []
    fields: list[str] = []
    for number in range(n_fields):
        field = draw_difference_field(rng, settings)
        for _ in range(tiles_per_field):
            n_echoes = int(rng.integers(1, 4)) if rng.random() < echo_share else 0
            tile = simulate_tile(rng, field, n_echoes)
            boxes.append(tile.boxes.assign(tile=len(pixels)))
            pixels.append(tile.image.astype(np.float16))
            fields.append(f"{seed}-{number:04d}")
    return TileSet(np.stack(pixels), pd.concat(boxes, ignore_index=True), np.array(fields, dtype=object))
