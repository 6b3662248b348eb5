"""Attention of a transformer, rolled out through its layers and assigned to the rows of a strip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shutterless.models.explain.batches import ExplainError, tensor_batches
from shutterless.models.inputs import DetectorModel
from shutterless.models.scoring import evaluation_mode
from shutterless.models.transformer import TransformerDetector
from shutterless.pipeline.tokens import StripBatch, TokenGrid


@dataclass(frozen=True)
class StripAttention:
    """Attention of ``b`` strips; every last axis sums to one.

    Parameters
    ----------
    rollout : ndarray, shape (b, 1 + n, 1 + n)
        Share of each input token (last axis) in each output token of the encoder; token 0 is the static profile.
    from_profile, from_pool : ndarray, shape (b, 1 + n)
        Shares of the input tokens in the two halves of the summary: token 0, and the pooled patches.
    grid : TokenGrid
    """

    rollout: np.ndarray
    from_profile: np.ndarray
    from_pool: np.ndarray
    grid: TokenGrid

    @property
    def summary(self) -> np.ndarray:
        """Shares of the input tokens in the summary, both halves weighted equally, shape (b, 1 + n)."""
        return (self.from_profile + self.from_pool) / 2

    @property
    def rows(self) -> np.ndarray:
        """Share of each binned row in the summary, shape (b, t); token 0 has the rest up to one."""
        return spread_over_rows(self.summary, self.grid)


def attention_rollout(attentions: Sequence[torch.Tensor]) -> torch.Tensor:
    """Combine the attention of all layers.

    Parameters
    ----------
    attentions : sequence of tensor, shape (b, h, n, n)
        Attention of each layer, the first layer first; each query (third axis) sums to one.

    Returns
    -------
    tensor, shape (b, n, n)
        Share of each input token (last axis) in each output token; rows sum to one.

    Raises
    ------
    ExplainError
        Without a layer.

    Notes
    -----
    Abnar & Zuidema 2020 (arXiv:2005.00928), eq. 1: half of the output of a layer bypasses its attention, so each
    layer contributes (A + 1) / 2, where A is the mean over the heads, and the layers are multiplied. Values and
    feed-forward parts are left out: a token with a large share was attended to, but need not favour an event.
    """
    if not attentions:
        raise ExplainError("attention rollout of 0 layers: give the attention of each layer, the first layer first")
    identity = torch.eye(attentions[0].shape[-1], dtype=attentions[0].dtype, device=attentions[0].device)
    rolled = identity.expand(len(attentions[0]), -1, -1)
    for attention in attentions:
        rolled = (attention.mean(1) + identity) / 2 @ rolled
    return rolled


def attend(model: DetectorModel, strips: StripBatch, *, batch_size: int = 64) -> StripAttention:
    """Compute the attention rollout of a transformer for some strips.

    Parameters
    ----------
    model : DetectorModel
    strips : StripBatch
        Cut with the model's grid.
    batch_size : int

    Returns
    -------
    StripAttention

    Raises
    ------
    ExplainError
        If the model is no transformer.
    """
    if not isinstance(model, TransformerDetector):
        raise ExplainError(
            f"a {type(model).__name__} has no attention between tokens: ask for its saliency "
            "(shutterless.models.explain.saliency), which every family has"
        )
    n = 1 + model.grid.n_tokens
    rollouts, weights = [np.empty((0, n, n), np.float32)], [np.empty((0, n - 1), np.float32)]
    with evaluation_mode(model), _recorded(model) as recorded, torch.inference_mode():
        for batch in tensor_batches(model, strips, batch_size):
            model(**batch)
            rollouts.append(attention_rollout(recorded["attentions"]).cpu().numpy())
            weights.append(_pool_weights(recorded["pool"], batch["mask"]).cpu().numpy())
    rollout, pool = np.concatenate(rollouts), np.concatenate(weights)
    return StripAttention(rollout, rollout[:, 0], np.einsum("b n, b n m -> b m", pool, rollout[:, 1:]), model.grid)


def spread_over_rows(shares: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """Distribute the shares of tokens (b, 1 + n) over binned rows (b, t), evenly over the rows of a patch."""
    return np.repeat(shares[:, 1:] / grid.patch_rows, grid.patch_rows, axis=1)


@contextmanager
def _recorded(model: TransformerDetector) -> Iterator[dict[str, Any]]:
    """Record the attention of the encoder's layers and the scores of the pool in the last forward pass.

    Only the eager implementation returns attention weights; the one in use is restored afterwards.
    """
    recorded: dict[str, Any] = {}
    encoder: Any = model.encoder
    before = encoder.config._attn_implementation

    def ask(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "output_attentions": True}

    def keep_attentions(module: Any, args: Any, output: Any) -> None:
        recorded["attentions"] = output.attentions

    def keep_scores(module: Any, args: Any, output: torch.Tensor) -> None:
        recorded["pool"] = output.squeeze(-1)

    hooks = [
        encoder.register_forward_pre_hook(ask, with_kwargs=True),
        encoder.register_forward_hook(keep_attentions),
        model.pool.score.register_forward_hook(keep_scores),
    ]
    encoder.set_attn_implementation("eager")
    try:
        yield recorded
    finally:
        encoder.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()


def _pool_weights(score: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Weights (b, n) that `AttentionPool` gives to the patches."""
    return score.masked_fill(~mask, -1e4).softmax(-1)
