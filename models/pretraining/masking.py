"""Draw the patches of a strip that a model must predict."""

from __future__ import annotations

import torch

from shutterless.models.pretraining.settings import Masking, MaskingError


def draw_hidden(mask: torch.Tensor, masking: Masking, generator: torch.Generator) -> torch.Tensor:
    """Draw the patches to hide.

    Parameters
    ----------
    mask : tensor of bool, shape (b, n)
        False where a patch holds no valid pixel; such patches are never hidden.
    masking : Masking
    generator : torch.Generator

    Returns
    -------
    tensor of bool, shape (b, n)
        True where hidden. Strips of one valid patch hide none.

    Notes
    -----
    Every patch gets a random key, equal within a run, and the smallest keys are hidden. So every strip hides exactly
    its share, and the last run is cut short if necessary. The first patch of the runs is random.
    """
    n_strips, n = mask.shape
    in_runs = torch.rand(n_strips, generator=generator) < masking.run_share
    length = torch.where(in_runs, masking.run_patches, 1)
    shift = torch.randint(masking.run_patches, (n_strips,), generator=generator)
    run = (torch.arange(n) + shift.unsqueeze(1)) // length.unsqueeze(1)  # (b, n)
    keys = torch.rand(n_strips, n + masking.run_patches, generator=generator).gather(1, run)
    keys = keys.masked_fill(~mask, torch.inf)
    rank = keys.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    n_valid = mask.sum(1)
    n_hidden = torch.minimum((masking.share * n_valid).round().long().clamp(min=1), n_valid - 1)
    return (rank < n_hidden.unsqueeze(1)) & mask


def hidden_in_turn(n_tokens: int, n_turns: int) -> list[torch.Tensor]:
    """Masks (n,) that hide every patch in exactly one of ``n_turns`` turns, neighbours in different ones."""
    if not 1 < n_turns <= n_tokens:
        raise MaskingError(f"{n_turns} turns for {n_tokens} patches; give 2 to {n_tokens}")
    turn = torch.arange(n_tokens) % n_turns
    return [turn == i for i in range(n_turns)]
