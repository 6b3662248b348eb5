"""One-stage detector: a convolutional stem, attention over channels, places and cells, and an answer in every cell.

The stem sees the image at three binnings (`views`). An encoder lets every cell of 16 pixels look at all others, so that
a trail is one object although no cell holds more than a piece of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME, ModelOutput

from shutterless.models.boxes.configuration import BoxDetectorConfig
from shutterless.models.boxes.targets import BOX_OUTPUTS, CellTargets, detection_loss
from shutterless.models.boxes.views import N_VIEWS, scale_views
from shutterless.models.inputs import no_progress_bars
from shutterless.pipeline.files import give_umask_rights

_N_NEAR = 1  # convolutions over neighbouring cells before attention; without any, boxes were off by more
_PLACE_SHARE = 0.3  # of a cell's place beside what it shows; at 1, bars in noise were not found after 400 steps
_RARE = -4.0  # log-odds of an object in a cell before training: most cells are empty


@dataclass
class BoxOutput(ModelOutput):
    """Answers of the cells of each tile, row by row.

    Parameters
    ----------
    loss : tensor, shape ()
        If targets were given.
    object_logits : tensor, shape (b, n)
    kind_logits : tensor, shape (b, n, k)
    boxes : tensor, shape (b, n, 6)
        Encoded, see `shutterless.models.boxes.targets.encode_boxes`.
    """

    loss: torch.Tensor | None = None
    object_logits: torch.Tensor | None = None
    kind_logits: torch.Tensor | None = None
    boxes: torch.Tensor | None = None


class BoxDetector(PreTrainedModel):
    """Answers for every cell of a tile whether an object has its middle there, of which kind, and its box."""

    config_class = BoxDetectorConfig
    places: torch.Tensor
    main_input_name = "views"

    def __init__(self, config: BoxDetectorConfig) -> None:
        super().__init__(config)
        sizes = [N_VIEWS, *(config.channels or ())]
        hidden = sizes[-1]
        self.stem = nn.ModuleList(
            _Convolution(n_in, n_out, stride, config.attention)
            for n_in, n_out, stride in zip(sizes[:-1], sizes[1:], (1, 2, 2), strict=True)
        )
        layer = nn.TransformerEncoderLayer(
            hidden, config.n_heads, 2 * hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.near = nn.Sequential(*(_Residual(hidden) for _ in range(_N_NEAR if config.attention else config.n_layers)))
        if config.attention:
            self.cells = nn.TransformerEncoder(layer, config.n_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU())
        self.is_object = nn.Linear(hidden, 1)
        self.kind = nn.Linear(hidden, len(config.kinds or ()))
        self.box = nn.Linear(hidden, BOX_OUTPUTS)
        self.register_buffer("places", _place_codes(config.n_cells, hidden))
        self.post_init()

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write ``config.json`` and ``model.safetensors``, which everyone may read."""
        with no_progress_bars():
            super().save_pretrained(save_directory, **kwargs)
        give_umask_rights(Path(save_directory) / SAFE_WEIGHTS_NAME)

    def _init_weights(self, module: nn.Module) -> None:
        """Keep the layers' own draws; objects are rare."""
        if module is self.is_object:
            nn.init.constant_(self.is_object.bias, _RARE)

    def forward(
        self,
        views: torch.Tensor,
        **targets: torch.Tensor,
    ) -> BoxOutput:
        """Answer for all cells.

        Parameters
        ----------
        views : tensor, shape (b, 8, y/4, x/4)
            Tiles of `shutterless.models.boxes.views.bin_pixels`.
        **targets : tensor
            The fields of `CellTargets` of each tile, for a loss.
        """
        maps = scale_views(views)  # (b, 9, y/4, x/4)
        for layer in self.stem:
            maps = layer(maps)  # (b, c, cells, cells)
        encoded = self.near(maps).flatten(2).transpose(1, 2)  # (b, n, c)
        if self.config.attention:
            encoded = self.cells(self.norm(encoded) + _PLACE_SHARE * self.places)
        encoded = self.head(encoded)
        answers = self.is_object(encoded).squeeze(-1), self.kind(encoded), self.box(encoded)
        loss = detection_loss(*answers, tuple(targets[name] for name in CellTargets._fields)) if targets else None
        return BoxOutput(loss, *answers)


def _place_codes(n_cells: int, hidden: int) -> torch.Tensor:
    """Sines and cosines of the row and column of each cell, shape (n, hidden), after Vaswani et al. 2017."""
    rates = torch.exp(torch.arange(hidden // 4) * (-4.0 / (hidden // 4)))
    angle = torch.arange(n_cells)[:, None] * rates
    code = torch.cat([angle.sin(), angle.cos()], 1)  # (cells, hidden/2)
    rows, columns = code[:, None].expand(-1, n_cells, -1), code[None].expand(n_cells, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)


class _Convolution(nn.Module):
    """Convolution, and attention over its channels and places (Woo et al. 2018, CBAM, arXiv:1807.06521)."""

    def __init__(self, n_in: int, n_out: int, stride: int, attention: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(4, n_out)
        self.attention = attention
        if attention:
            self.channels = nn.Sequential(nn.Linear(n_out, n_out // 4), nn.GELU(), nn.Linear(n_out // 4, n_out))
            self.places = nn.Conv2d(2, 1, 7, padding=3)
            for values in (*self.channels[-1].parameters(), *self.places.parameters()):
                nn.init.zeros_(values)  # all weights are 1 before training

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = functional.gelu(self.norm(self.convolution(maps)))
        if self.attention:
            each = self.channels(maps.mean((2, 3))) + self.channels(maps.amax((2, 3)))
            maps = maps * 2 * each.sigmoid()[:, :, None, None]
            where = torch.cat([maps.mean(1, keepdim=True), maps.amax(1, keepdim=True)], 1)
            maps = maps * 2 * self.places(where).sigmoid()
        return maps


class _Residual(nn.Module):
    """Two convolutions beside a skip connection, in the place of a layer of attention."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(4, hidden), nn.Conv2d(hidden, hidden, 3, padding=1), nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
        )  # fmt: skip

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + self.layers(maps)


AutoConfig.register(BoxDetectorConfig.model_type, BoxDetectorConfig)
AutoModel.register(BoxDetectorConfig, BoxDetector)
