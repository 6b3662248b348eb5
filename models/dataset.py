"""Training strips for the `Trainer`: whole batches by index, mirrored at random, split by file or amplifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from torch.utils.data import Dataset

from shutterless.pipeline.examples.training import Labels
from shutterless.pipeline.tokens import StripBatch, TokenGrid

LABEL_NAMES = ["is_event", "kind", "onset", "log2_duration"]


class SplitError(ValueError):
    """Strips that cannot be split into training and validation without leakage."""


class StripDataset(Dataset):
    """Strips and labels as tensors; a batch is one indexing operation.

    Parameters
    ----------
    strips : StripBatch
    labels : Labels
        With the arrays ``is_event``, ``kind``, ``onset``, ``log2_duration`` and, if labels count differently,
        ``weight``, all of shape (b,).
    grid : TokenGrid
    numbers : ndarray of float32, shape (b, c), optional
        Context of the triggers, for models that see it.
    flip_columns : bool
        Mirror each strip left-right with probability 1/2, every time it is drawn. Time is never reversed, because a
        flare rises fast and decays slowly. Nothing is rotated, because only rows are time.
    seed : int
        Fixes which strips are mirrored.
    """

    def __init__(
        self,
        strips: StripBatch,
        labels: Labels,
        grid: TokenGrid,
        *,
        numbers: np.ndarray | None = None,
        flip_columns: bool = False,
        seed: int = 0,
    ) -> None:
        self.inputs = strips_to_tensors(strips, numbers)
        self.labels = labels_to_tensors(labels)
        self.grid = grid
        self.flip_columns = flip_columns
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.inputs["patches"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One strip, as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return a collated batch; the loader calls this once per batch instead of stacking strips one by one."""
        index = torch.as_tensor(indices)
        # five times as fast as indexing, which copies single numbers instead of whole strips
        batch = {name: values.index_select(0, index) for name, values in {**self.inputs, **self.labels}.items()}
        if self.flip_columns:
            chosen = torch.rand(len(index), generator=self.generator) < 0.5
            mirror_columns(batch, self.grid, chosen)
        return batch


def mirror_columns(batch: dict[str, torch.Tensor], grid: TokenGrid, chosen: torch.Tensor) -> None:
    """Mirror the chosen strips left-right in place: their patches and their static profile."""
    y, x, t = grid.n_y, grid.n_columns, grid.patch_rows
    index = chosen.nonzero().squeeze(1)
    patches, profile = (batch[name].index_select(0, index) for name in ("patches", "profile"))
    batch["patches"].index_copy_(0, index, patches.unflatten(-1, (y, x, t)).flip(-2).flatten(-3))
    batch["profile"].index_copy_(0, index, profile.unflatten(-1, (y, x)).flip(-1).flatten(-2))


def pass_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Collate nothing: `StripDataset` already gives whole batches."""
    return batch


def strips_to_tensors(strips: StripBatch, numbers: np.ndarray | None = None) -> dict[str, torch.Tensor]:
    """Convert a `StripBatch`, and the context of its triggers, to tensors under the names of the models' inputs."""
    arrays = {f.name: np.ascontiguousarray(getattr(strips, f.name)) for f in fields(StripBatch)}
    if numbers is not None:
        arrays["numbers"] = np.ascontiguousarray(numbers)
    types = {"mask": bool}
    return {name: torch.from_numpy(array.astype(types.get(name, np.float32))) for name, array in arrays.items()}


def labels_to_tensors(labels: Labels) -> dict[str, torch.Tensor]:
    """Convert labels to tensors under the names of the models' inputs."""
    types = {"kind": np.int64}
    return {
        name: torch.from_numpy(np.ascontiguousarray(getattr(labels, name)).astype(types.get(name, np.float32)))
        for name in (LABEL_NAMES if labels.weight is None else [*LABEL_NAMES, "weight"])
    }


def split_by_group(
    groups: np.ndarray, *, validation_groups: Sequence[int] | None = None, fraction: float = 0.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split strips into training and validation by group, never by strip.

    Strips of one amplifier share its stars, noise and artefacts. If neighbours of the validation strips were trained
    on, the validation would measure memory.

    Parameters
    ----------
    groups : ndarray of int, shape (b,)
        Group of each strip.
    validation_groups : sequence of int, optional
        The groups to validate on; drawn if left out.
    fraction : float
        Fraction of the groups to draw, at least one and never all.
    seed : int
        Fixes which groups are drawn.

    Returns
    -------
    training, validation : ndarray of int
        Indices of the strips, ascending.
    """
    groups = np.asarray(groups)
    known = np.unique(groups)
    if validation_groups is None:
        if len(known) < 2:
            raise SplitError(
                f"all {len(groups)} strips are from {len(known)} group: validation needs a group of its own; "
                "add strips of another file or amplifier"
            )
        n_drawn = int(np.clip(round(fraction * len(known)), 1, len(known) - 1))
        validation_groups = np.random.default_rng(seed).choice(known, n_drawn, replace=False).tolist()
    chosen = np.isin(groups, np.asarray(validation_groups))
    if chosen.all() or not chosen.any():
        raise SplitError(
            f"validation groups {sorted(validation_groups)} take {chosen.sum()} of {len(groups)} strips; the groups "
            f"are {known.tolist()}: choose some of them, not all"
        )
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
