"""Multi-layer perceptron: every pixel of the strip is an input of the first layer."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from shutterless.models.configuration import MlpConfig
from shutterless.models.inputs import DetectorModel, ModelInputs


class MlpDetector(DetectorModel):
    """Fully connected layers over the flattened strip; without a hidden layer it is the perceptron."""

    config_class = MlpConfig

    def __init__(self, config: MlpConfig) -> None:
        grid = config.token_grid
        # patches, row context and mask; then the static profile. The features join in the head.
        input_size = grid.n_tokens * (grid.patch_size + grid.patch_rows + 1) + grid.profile_size
        sizes = [input_size, *(config.hidden_sizes or ())]
        super().__init__(config, summary_size=sizes[-1])
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.GELU(), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers)
        self.post_init()

    def summarise(self, inputs: ModelInputs) -> torch.Tensor:
        """Flatten and pass through the hidden layers."""
        tokens = torch.cat([inputs.patches, inputs.context, inputs.mask.unsqueeze(-1)], -1)  # (b, n, d + r + 1)
        return self.layers(torch.cat([tokens.flatten(1), inputs.profile], -1))
