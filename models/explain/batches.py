"""Shared by all explanations of a detector: batches of strips, the event logit, and the error they raise."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from shutterless.models.dataset import strips_to_tensors
from shutterless.models.inputs import DetectorModel, ModelInputs
from shutterless.pipeline.tokens import StripBatch


class ExplainError(ValueError):
    """An explanation that this kind of model, or these settings, cannot give."""


def tensor_batches(model: DetectorModel, strips: StripBatch, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Strips as tensors on the model's device, ``batch_size`` at a time, in their order."""
    model.check_features()
    for start in range(0, len(strips), batch_size):
        batch = strips_to_tensors(strips[start : start + batch_size])
        yield {name: values.to(model.device) for name, values in batch.items()}


def event_logit(model: DetectorModel, inputs: ModelInputs) -> torch.Tensor:
    """Event logit (b,) of scaled inputs."""
    logit = model.head(model.summarise(inputs), inputs.features).event_logit
    assert logit is not None
    return logit
