"""Transformer detector: the ModernBERT encoder of `transformers` over the patches of a strip."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import ModernBertConfig, ModernBertModel

from shutterless.models.configuration import TransformerConfig
from shutterless.models.inputs import DetectorModel, ModelInputs, number_encoding_size
from shutterless.models.outputs import AttentionPool


def _encoder_config(config: TransformerConfig) -> ModernBertConfig:
    """Set up ModernBERT (Warner et al. 2024, arXiv:2412.13663) for short sequences of patches instead of words."""
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    return ModernBertConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.mlp_size,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        # variance 1 / inputs; the library's 0.02 suits widths of 768 and more: at a width of 96, toy pulses were
        # found (AUC 0.9) after 3 epochs instead of 4
        initializer_range=config.hidden_size**-0.5,
        # every layer attends to the whole strip, which has only a few tens of tokens
        layer_types=["full_attention"] * config.n_layers,
        rope_parameters={"full_attention": rope, "sliding_attention": rope},
        max_position_embeddings=config.token_grid.n_tokens + 1,
        attention_dropout=config.dropout,
        mlp_dropout=config.dropout,
        embedding_dropout=config.dropout,
        # tokens are given as vectors: one unused word is kept, and the special words must lie inside the vocabulary
        vocab_size=1,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        cls_token_id=None,
        sep_token_id=None,
        attn_implementation=config._attn_implementation,  # type: ignore[call-arg]
    )


class StripEncoder(nn.Module):
    """Token embeddings and encoder of a strip, shared by the detector and the pretraining.

    A token is embedded by two linear layers with a GELU between them. The encoder first normalizes each token; after a
    linear embedding alone this would remove the brightness of a patch. Positions are token indices, so the unit of
    time is the rows of one token.
    """

    embed_patch: nn.Module
    embed_static: nn.Module
    encoder: nn.Module

    def add_encoder(self, config: TransformerConfig) -> None:
        """Add embeddings and encoder; their weights are drawn later."""
        grid, hidden = config.token_grid, config.hidden_size
        self.embed_patch = _embedding(grid.patch_size + grid.patch_rows, hidden)
        self.embed_static = _embedding(grid.profile_size + len(config.feature_names or ()), hidden)
        if config.context_names:
            self.embed_numbers = _embedding(number_encoding_size(len(config.context_names)), hidden)
        self.encoder = ModernBertModel(_encoder_config(config))

    def encode(self, inputs: ModelInputs, hidden: torch.Tensor | None = None, hide: Any = None) -> torch.Tensor:
        """Encode token 0, the static profile with the stage-1 features, and the patches, shape (b, 1 + n, h).

        Parameters
        ----------
        inputs : ModelInputs
        hidden : tensor of bool, shape (b, n), optional
            Patches whose pixels and row context are hidden.
        hide : tensor, shape (h,), optional
            Embedding that replaces them.
        """
        patches = self.embed_patch(torch.cat([inputs.patches, inputs.context], -1))  # (b, n, h)
        if hidden is not None:
            patches = torch.where(hidden.unsqueeze(-1), hide, patches)
        static = self.embed_static(torch.cat([inputs.profile, inputs.features], -1))  # (b, h)
        if inputs.surroundings is not None:
            static = static + self.embed_numbers(inputs.surroundings)
        tokens = torch.cat([static.unsqueeze(1), patches], 1)  # (b, 1 + n, h)
        mask = torch.cat([torch.ones_like(inputs.mask[:, :1]), inputs.mask], 1)  # (b, 1 + n)
        return self.encoder(inputs_embeds=tokens, attention_mask=mask).last_hidden_state


class TransformerDetector(StripEncoder, DetectorModel):
    """Patches as tokens; token 0 and the attention-pooled patches make up the summary."""

    config_class = TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        hidden = config.hidden_size
        size = 2 * hidden + 1
        DetectorModel.__init__(self, config, summary_size=size + (hidden if config.context_names else 0))
        self.add_encoder(config)
        self.pool = AttentionPool(hidden)
        if config.context_names:
            n_numbers = number_encoding_size(len(config.context_names))
            self.join = nn.Sequential(
                nn.Linear(size + n_numbers, 2 * hidden), nn.GELU(), nn.Dropout(config.dropout),
                nn.Linear(2 * hidden, hidden), nn.GELU(),
            )  # fmt: skip
        self.post_init()

    def summarise(self, inputs: ModelInputs) -> torch.Tensor:
        """Encode token 0 and the patches, and pool them."""
        encoded = self.encode(inputs)
        summary = torch.cat([encoded[:, 0], self.pool(encoded[:, 1:], inputs.mask)], -1)  # (b, 2 h + 1)
        if inputs.surroundings is None:
            return summary
        return torch.cat([summary, self.join(torch.cat([summary, inputs.surroundings], -1))], -1)


def _embedding(input_size: int, hidden_size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(input_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size))
