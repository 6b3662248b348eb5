"""Multi-layer perceptrons: a detector that takes every pixel of the strip, and a plain one of any size for any task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from shutterless.models.configuration import MlpConfig
from shutterless.models.inputs import DetectorModel, ModelInputs, number_encoding_size
from shutterless.models.tasks import TaskError, choose_reading


def _hidden_layers(sizes: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Fully connected layers of the given sizes, inputs first, each with GELU and dropout; one size gives no layer."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def parse_sizes(text: str) -> list[int]:
    """Parse ``"3-4-3-1"`` as layer sizes; commas, blanks and en dashes are accepted as well."""
    parts = re.split(r"\s*[-–,\s]\s*", text.strip())
    if not all(part.isdecimal() for part in parts):
        raise TaskError(f"layers {text!r}: give the numbers of inputs, hidden units and outputs, as in 3-4-3-1")
    return [int(part) for part in parts]


class PlainMlp(nn.Module):
    """A multi-layer perceptron of any sizes for any task.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden layers, outputs: ``[3, 4, 3, 1]`` has (3 + 1)·4 + (4 + 1)·3 + (3 + 1)·1 = 35 parameters.
    task : str
        "binary", "multiclass" or "regression": sets last activation and loss; the last size must fit it.
    dropout : float
        After each hidden layer while training.
    """

    def __init__(self, sizes: Sequence[int], task: str = "regression", *, dropout: float = 0.0) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise TaskError(
                f"layers {list(sizes)}: give the numbers of inputs, hidden units and outputs, each at least 1, "
                "as in 3-4-3-1"
            )
        self.reading = choose_reading(task, n_outputs=sizes[-1])
        self.layers = _hidden_layers(sizes[:-1], dropout)
        self.output = self.reading.layer(sizes[-2])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map inputs ``(b, sizes[0])`` to raw outputs for the loss, ``(b,)`` or ``(b, sizes[-1])``."""
        return self.reading.shape(self.output(self.layers(inputs)))

    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map inputs to the reported probabilities or numbers."""
        return self.reading.activate(self(inputs))

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean loss of the task."""
        return self.reading.loss(self(inputs), labels)


class MlpDetector(DetectorModel):
    """Fully connected layers over the flattened strip; without a hidden layer it is the perceptron."""

    config_class = MlpConfig

    def __init__(self, config: MlpConfig) -> None:
        grid = config.token_grid
        # patches, row context and mask; then the static profile. The features join in the head.
        input_size = grid.n_tokens * (grid.patch_size + grid.patch_rows + 1) + grid.profile_size
        input_size += number_encoding_size(len(config.context_names or ()))
        sizes = [input_size, *(config.hidden_sizes or ())]
        super().__init__(config, summary_size=sizes[-1])
        self.layers = _hidden_layers(sizes, config.dropout)
        self.post_init()

    def summarise(self, inputs: ModelInputs) -> torch.Tensor:
        """Flatten and pass through the hidden layers."""
        tokens = torch.cat([inputs.patches, inputs.context, inputs.mask.unsqueeze(-1)], -1)  # (b, n, d + r + 1)
        static = [inputs.profile] if inputs.surroundings is None else [inputs.profile, inputs.surroundings]
        return self.layers(torch.cat([tokens.flatten(1), *static], -1))
