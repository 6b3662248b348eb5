"""Convolutional detector: kernels that run along time over all columns of a strip."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional

from shutterless.models.configuration import CnnConfig
from shutterless.models.inputs import DetectorModel, ModelInputs, number_encoding_size
from shutterless.models.outputs import AttentionPool


class CnnDetector(DetectorModel):
    """One-dimensional convolutions along time with the columns as channels.

    Two channels are added: the shared row residual (light common to all columns is not from the sky) and the mask.
    The last feature maps are pooled by their maximum and by attention and joined with the static profile.
    """

    config_class = CnnConfig

    def __init__(self, config: CnnConfig) -> None:
        super().__init__(config, summary_size=config.hidden_size + 1)
        grid, channels = config.token_grid, list(config.channels or ())
        n_static = grid.profile_size + len(config.feature_names or ())
        n_static += number_encoding_size(len(config.context_names or ()))
        sizes = [grid.profile_size + 2, *channels]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(n_in, n_out, config.kernel_rows, stride=stride, padding=config.kernel_rows // 2)
            for n_in, n_out, stride in zip(sizes[:-1], sizes[1:], config.strides or (), strict=True)
        )
        self.pool = AttentionPool(channels[-1])
        self.join = nn.Linear(2 * channels[-1] + n_static, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def summarise(self, inputs: ModelInputs) -> torch.Tensor:
        """Convolve along time, pool, and join with the static profile and the features."""
        maps = self._channels(inputs)  # (b, c, t)
        for convolution in self.convolutions:
            maps = functional.gelu(convolution(maps))
        pooled = self.pool(maps.transpose(1, 2))  # (b, c + 1)
        static = [inputs.profile, inputs.features]
        if inputs.surroundings is not None:
            static.append(inputs.surroundings)
        joined = torch.cat([maps.amax(-1), pooled[:, :-1], *static], -1)
        # the mean position goes straight to the head, which reads the onset from it
        return torch.cat([self.dropout(functional.gelu(self.join(joined))), pooled[:, -1:]], -1)

    def _channels(self, inputs: ModelInputs) -> torch.Tensor:
        """Lay patches, row context and mask out along time, shape (b, y x + 2, t)."""
        strip = rearrange(inputs.patches, "b n (c t) -> b c (n t)", t=self.grid.patch_rows)  # c = y x
        context = rearrange(inputs.context, "b n r -> b 1 (n r)")
        mask = inputs.mask.to(strip.dtype).repeat_interleave(self.grid.patch_rows, dim=1).unsqueeze(1)
        return torch.cat([strip, context, mask], 1)
