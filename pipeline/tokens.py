"""Cut strips of a stack into sequences of patches, and join them again. No astronomy here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import numpy as np
from einops import rearrange
from pydantic import Field, model_validator

from shutterless.pipeline.settings import Count, settings_class

PATCH_PATTERN = "... y x (n t) -> ... n (y x t)"
STRIPS_AT_ONCE = 256  # in one forward pass where nothing is learned; another number may change the last digits


class GridError(ValueError):
    """A token grid that does not fit a strip, a store or a model."""


@settings_class(GridError)
class TokenGrid:
    """How a strip is cut into tokens; stored with every model and compared when one is loaded.

    Parameters
    ----------
    n_y, n_columns, n_rows : int
        Size of a strip: row axis of a stack (1 for continuous readout), columns, and binned rows (time).
    patch_rows : int
        Binned rows in one patch; a patch spans all of y and x.
    bins : tuple of int
        Factors by which rows may be binned before a strip is cut, so that long events fit into the same number of
        tokens.
    """

    n_y: Count = 1
    n_columns: Count = 16
    n_rows: Count = 256
    patch_rows: Count = 8
    bins: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 4, 16)

    @model_validator(mode="after")
    def _check_patches(self) -> TokenGrid:
        if self.n_rows % self.patch_rows:
            raise ValueError(f"n_rows {self.n_rows} is not a multiple of patch_rows {self.patch_rows}")
        return self

    @property
    def n_tokens(self) -> int:
        """Patches in a strip (token 0, the static profile, not counted)."""
        return self.n_rows // self.patch_rows

    @property
    def patch_size(self) -> int:
        """Numbers in one patch."""
        return self.n_y * self.n_columns * self.patch_rows

    @property
    def profile_size(self) -> int:
        """Numbers in the static profile."""
        return self.n_y * self.n_columns


@dataclass(frozen=True)
class StripBatch:
    """Inputs of every model, for ``b`` strips.

    Parameters
    ----------
    patches : ndarray of float32, shape (b, n, d)
        Residuals in units of σ, patch by patch; masked pixels are 0.
    context : ndarray of float32, shape (b, n, r)
        Shared row residual of each of a patch's ``r`` rows; an offset of all columns is not from the sky.
    profile : ndarray of float32, shape (b, y x)
        Static profile: the baseline under the strip, in units of the sky noise.
    features : ndarray of float32, shape (b, f)
        Measurements of the trigger by stage 1, in the order of `STAGE1_FEATURES`.
    mask : ndarray of bool, shape (b, n)
        False where a patch holds no valid pixel.
    """

    patches: np.ndarray
    context: np.ndarray
    profile: np.ndarray
    features: np.ndarray
    mask: np.ndarray

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: Any) -> StripBatch:
        """Select strips by a slice, an index array or a boolean mask."""
        return StripBatch(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


STRIP_ARRAYS = tuple(field.name for field in fields(StripBatch))
STAGE1_FEATURES = (
    "snr",
    "sign",
    "log2_width",
    "log2_bin",
    "chi2_excess",
    "chi2_significance",
    "sharpness",
    "flatness",
    "n_same_row",
)


def concatenate_strips(batches: Sequence[StripBatch]) -> StripBatch:
    """Join batches of one grid end to end."""
    return StripBatch(**{name: np.concatenate([getattr(batch, name) for batch in batches]) for name in STRIP_ARRAYS})


def patchify(strip: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """Cut strips into patches.

    Parameters
    ----------
    strip : ndarray, shape (..., y, x, t)
    grid : TokenGrid

    Returns
    -------
    ndarray, shape (..., n, d)
        ``n`` patches in time order, each of ``d = y x t`` numbers.
    """
    expected = (grid.n_y, grid.n_columns, grid.n_rows)
    if strip.shape[-3:] != expected:
        raise GridError(f"strip of shape {strip.shape} does not end in (y, x, t) = {expected} of {grid}")
    return rearrange(strip, PATCH_PATTERN, n=grid.n_tokens)


def unpatchify(patches: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """Put patches back together: the inverse of `patchify`."""
    expected = (grid.n_tokens, grid.patch_size)
    if patches.shape[-2:] != expected:
        raise GridError(f"patches of shape {patches.shape} do not end in (n, d) = {expected} of {grid}")
    source, target = PATCH_PATTERN.split(" -> ")
    return rearrange(patches, f"{target} -> {source}", y=grid.n_y, x=grid.n_columns, t=grid.patch_rows)


def check_same_grid(found: TokenGrid, expected: TokenGrid, what: str) -> None:
    """Refuse a grid other than the one a model was trained with, showing both."""
    if found != expected:
        raise GridError(
            f"{what} has {found}, but the model expects {expected}; re-run with the model's grid or retrain"
        )
