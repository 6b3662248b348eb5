"""Draw the patches of a strip that a model must predict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch


class MaskingError(ValueError):
    """Shares and lengths with which no patch can be hidden."""


@dataclass(frozen=True)
class Masking:
    """Share of hidden patches, and the length of their runs.

    Parameters
    ----------
    share : float
        Share of the patches with a valid pixel; at least one of every strip is hidden and at least one is left.
    run_share : float
        Share of the strips whose patches are hidden in runs of neighbours; in the others they are hidden one by one. A
        single hidden patch has visible neighbours, from which anything longer than a patch can be predicted.
    run_patches : int
        Patches in a run.
    """

    share: float = 0.5
    run_share: float = 0.5
    run_patches: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise MaskingError(f"masked share {self.share} is not between 0 and 1; give for example 0.5")
        if not 0 <= self.run_share <= 1:
            raise MaskingError(f"share of strips masked in runs {self.run_share} is not from 0 to 1")
        if self.run_patches < 1:
            raise MaskingError(f"a run of {self.run_patches} patches hides nothing; give 1 or more")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


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
