"""What every detector returns, the head that computes it, and the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers.utils import ModelOutput

# an onset wrong by a tenth of the strip is where the penalty turns from quadratic to linear
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
    """Weighted mean of a sequence, with weights it chooses itself, and the mean position under these weights."""

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


class DetectorHead(nn.Module):
    """Four linear readings of a strip's summary.

    The stage-1 features are appended to the summary, so that the signal-to-noise ratio reaches the event logit by a
    straight path: a fresh model is about as good as stage 1 after a few steps.
    """

    def __init__(self, summary_size: int, n_features: int, n_kinds: int) -> None:
        super().__init__()
        size = summary_size + n_features
        self.event = nn.Linear(size, 1)
        self.kind = nn.Linear(size, n_kinds)
        self.onset = nn.Linear(size, 1)
        self.log2_duration = nn.Linear(size, 1)

    def forward(self, summary: torch.Tensor, features: torch.Tensor) -> DetectorOutput:
        """Map a summary ``(b, h)`` and features ``(b, f)`` to the output without loss."""
        joined = torch.cat([summary, features], -1)  # (b, h + f)
        return DetectorOutput(
            event_logit=self.event(joined).squeeze(-1),
            kind_logits=self.kind(joined),
            onset=self.onset(joined).squeeze(-1),
            log2_duration=self.log2_duration(joined).squeeze(-1),
        )


def detector_loss(
    output: DetectorOutput,
    is_event: torch.Tensor,
    kind: torch.Tensor | None = None,
    onset: torch.Tensor | None = None,
    log2_duration: torch.Tensor | None = None,
    *,
    weights: Mapping[str, float],
) -> torch.Tensor:
    """Sum the weighted terms for which labels are given.

    Parameters
    ----------
    output : DetectorOutput
    is_event : tensor of float, shape (b,)
        1 for an event, 0 without.
    kind : tensor of int, shape (b,)
        Class index.
    onset, log2_duration : tensor, shape (b,)
        Labels of the events; NaN where there is none, which takes the strip out of the term.
    weights : mapping
        Weight of "event", "kind", "onset" and "log2_duration".
    """
    assert output.event_logit is not None
    assert output.kind_logits is not None
    loss = weights["event"] * functional.binary_cross_entropy_with_logits(output.event_logit, is_event)
    if kind is not None:
        loss = loss + weights["kind"] * functional.cross_entropy(output.kind_logits, kind)
    if onset is not None:
        loss = loss + weights["onset"] * mean_error(output.onset, onset, beta=ONSET_BETA)
    if log2_duration is not None:
        loss = loss + weights["log2_duration"] * mean_error(output.log2_duration, log2_duration, beta=1.0)
    return loss


def mean_error(found: torch.Tensor | None, wanted: torch.Tensor, beta: float) -> torch.Tensor:
    """Smooth L1 averaged over the strips whose label is finite; 0 without any."""
    assert found is not None
    labelled = wanted.isfinite()
    # the label is replaced before it meets the gradient: NaN × 0 would still be NaN
    error = functional.smooth_l1_loss(found, wanted.where(labelled, found.detach()), beta=beta, reduction="none")
    return (error * labelled).sum() / labelled.sum().clamp(min=1)
