"""Output of every detector, the head that computes it, and the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import torch
from torch import nn
from transformers.utils import ModelOutput

from shutterless.models.tasks import Reading, choose_reading

# the penalty turns from quadratic to linear where the onset is wrong by a tenth of the strip
ONSET_BETA = 0.1


@dataclass
class DetectorOutput(ModelOutput):
    """Output of every detector for ``b`` strips.

    Parameters
    ----------
    loss : tensor, shape ()
        Weighted sum of the loss terms, when labels were given.
    event_logit : tensor, shape (b,)
        Uncalibrated log-odds that the strip holds an event.
    kind_logits : tensor, shape (b, k)
        Log-odds of the classes, up to a constant.
    onset : tensor, shape (b,)
        First row of the event as a fraction of the strip; meaningless without one.
    log2_duration : tensor, shape (b,)
        log2 of the event's duration in rows; meaningless without one.
    """

    loss: torch.Tensor | None = None
    event_logit: torch.Tensor | None = None
    kind_logits: torch.Tensor | None = None
    onset: torch.Tensor | None = None
    log2_duration: torch.Tensor | None = None


class AttentionPool(nn.Module):
    """Weighted mean of a sequence with learned weights, and the mean position under these weights."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)

    def forward(self, sequence: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Pool ``(b, n, h)`` into ``(b, h + 1)``; the last number is the position as a fraction of the sequence."""
        score = self.score(sequence).squeeze(-1)  # (b, n)
        if mask is not None:
            # a finite stand-in for minus infinity: a strip without any valid token must not become NaN
            score = score.masked_fill(~mask, -1e4)
        weight = score.softmax(-1).unsqueeze(-1)  # (b, n, 1)
        position = torch.linspace(0, 1, sequence.shape[1], device=sequence.device, dtype=sequence.dtype)
        position = position.expand(len(sequence), -1).unsqueeze(-1)  # (b, n, 1)
        return (weight * torch.cat([sequence, position], -1)).sum(1)


@cache
def detector_readings(n_kinds: int) -> Mapping[str, Reading]:
    """Quantities that a detector reads from a strip, each with the output size, activation and loss of its task."""
    return MappingProxyType(
        {
            "event": choose_reading("binary"),
            "kind": choose_reading("multiclass", n_classes=n_kinds),
            "onset": choose_reading("regression", beta=ONSET_BETA),
            "log2_duration": choose_reading("regression"),
        }
    )


class DetectorHead(nn.Module):
    """Four linear readings of a strip's summary, built from their tasks.

    The stage-1 features are appended to the summary, so that the S/N reaches the event logit directly. A new model is
    therefore about as good as stage 1 after a few steps.
    """

    def __init__(self, summary_size: int, n_features: int, n_kinds: int) -> None:
        super().__init__()
        self.readings = dict(detector_readings(n_kinds))
        for name, reading in self.readings.items():
            self.add_module(name, reading.layer(summary_size + n_features))

    def forward(self, summary: torch.Tensor, features: torch.Tensor) -> DetectorOutput:
        """Map a summary ``(b, h)`` and features ``(b, f)`` to the output without loss."""
        joined = torch.cat([summary, features], -1)  # (b, h + f)
        outputs = {name: reading.shape(self.get_submodule(name)(joined)) for name, reading in self.readings.items()}
        return DetectorOutput(
            event_logit=outputs["event"],
            kind_logits=outputs["kind"],
            onset=outputs["onset"],
            log2_duration=outputs["log2_duration"],
        )


def detector_loss(
    output: DetectorOutput,
    is_event: torch.Tensor,
    kind: torch.Tensor | None = None,
    onset: torch.Tensor | None = None,
    log2_duration: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    *,
    weights: Mapping[str, float],
) -> torch.Tensor:
    """Sum the weighted terms for which labels are given, each with the loss of its task.

    Parameters
    ----------
    output : DetectorOutput
    is_event : tensor of float, shape (b,)
        1 for an event, 0 without.
    kind : tensor of int, shape (b,)
        Class index.
    onset, log2_duration : tensor, shape (b,)
        Labels of the events; NaN without an event. Strips with NaN do not count in this term.
    weight : tensor, shape (b,)
        How much the labels of each strip count; all alike without it.
    weights : mapping
        Weight of "event", "kind", "onset" and "log2_duration".
    """
    assert output.event_logit is not None
    assert output.kind_logits is not None
    found = {
        "event": (output.event_logit, is_event),
        "kind": (output.kind_logits, kind),
        "onset": (output.onset, onset),
        "log2_duration": (output.log2_duration, log2_duration),
    }
    loss = torch.zeros((), dtype=output.event_logit.dtype, device=output.event_logit.device)
    for name, reading in detector_readings(output.kind_logits.shape[-1]).items():
        outputs, labels = found[name]
        if labels is not None:
            assert outputs is not None
            loss = loss + weights[name] * reading.loss(outputs, labels, weight)
    return loss
