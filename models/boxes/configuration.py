"""Configuration of the box detector: kinds of objects, size of a tile, sizes of the network."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from shutterless.models.boxes.settings import BOX_TYPE
from shutterless.models.configuration import ConfigurationError
from shutterless.pipeline.simulation.difference_images import BOX_KINDS

CELL_PX = 16  # pixels that one answer of the network stands for, along each axis


class BoxDetectorConfig(PreTrainedConfig):
    """Settings of a box detector.

    Parameters
    ----------
    kinds : list of str
        Names of the objects, in the order of ``kind_logits``.
    tile_px : int
        Side of the square tiles that the network sees; a multiple of `CELL_PX`.
    channels : list of int
        Of the three convolutions; each halves the image, which begins at a quarter of its pixels.
    attention : bool
        Whether channels and places are weighted by attention, and cells attend to each other. Without, convolutions
        with as many layers stand in their place.
    n_layers, n_heads : int
        Of the encoder over the cells.
    pixel_scale_arcsec : float or None
        Pixels of the images of its training, to which others are scaled; None if unknown.
    training : dict
        Hyperparameters, and what it learned from; empty before training.
    """

    model_type = BOX_TYPE

    kinds: list | None = None
    tile_px: int = 256
    channels: list | None = None
    attention: bool = True
    n_layers: int = 2
    n_heads: int = 4
    pixel_scale_arcsec: float | None = None
    training: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.kinds = list(self.kinds or BOX_KINDS)
        self.channels = list(self.channels or (16, 32, 64))
        self.training = dict(self.training or {})
        if self.tile_px % CELL_PX:
            raise ConfigurationError(f"tile_px {self.tile_px} is no multiple of {CELL_PX}, the pixels of a cell")
        if len(self.channels) != 3 or self.channels[-1] % (4 * self.n_heads):
            raise ConfigurationError(
                f"channels {self.channels}: give three, the last one a multiple of 4 × {self.n_heads} heads"
            )
        super().__post_init__(**kwargs)

    @property
    def n_cells(self) -> int:
        """Cells along one side of a tile."""
        return self.tile_px // CELL_PX
