"""Patches: solved in the head on a tiny strip, round trip, and grids that refuse each other."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from shutterless.pipeline.tokens import (
    STAGE1_FEATURES,
    GridError,
    StripBatch,
    TokenGrid,
    check_same_grid,
    concatenate_strips,
    patchify,
    unpatchify,
)

TINY = TokenGrid(n_y=1, n_columns=2, n_rows=6, patch_rows=3)
GRIDS = [TINY, TokenGrid(), TokenGrid(n_y=3, n_columns=5, n_rows=28, patch_rows=7), TokenGrid(1, 1, 4, 1)]


def batch_of(n, grid=TINY):
    values = np.arange(n, dtype=np.float32)
    return StripBatch(
        patches=np.broadcast_to(values[:, None, None], (n, grid.n_tokens, grid.patch_size)).copy(),
        context=np.zeros((n, grid.n_tokens, grid.patch_rows), np.float32),
        profile=np.zeros((n, grid.profile_size), np.float32),
        features=np.zeros((n, len(STAGE1_FEATURES)), np.float32),
        mask=np.ones((n, grid.n_tokens), bool),
    )


def test_sizes_of_the_default_grid():
    """16 columns by 256 rows in patches of 8 rows: 32 tokens of 128 pixels."""
    grid = TokenGrid()
    assert (grid.n_tokens, grid.patch_size, grid.profile_size) == (32, 128, 16)


def test_patches_in_the_head():
    """Two columns (0…5 and 10…15) in patches of three rows: a patch is column after column."""
    strip = np.array([[[0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15]]])
    assert patchify(strip, TINY).tolist() == [[0, 1, 2, 10, 11, 12], [3, 4, 5, 13, 14, 15]]


@pytest.mark.parametrize("grid", GRIDS)
def test_round_trip(grid):
    strips = np.random.default_rng(0).standard_normal((4, grid.n_y, grid.n_columns, grid.n_rows))
    patches = patchify(strips, grid)
    assert patches.shape == (4, grid.n_tokens, grid.patch_size)
    np.testing.assert_array_equal(unpatchify(patches, grid), strips)


def test_patches_are_in_time_order():
    grid = TokenGrid(n_columns=5, n_rows=24, patch_rows=4)
    strip = np.broadcast_to(np.arange(24), (1, 5, 24))
    assert patchify(strip, grid).mean(axis=-1).tolist() == [1.5, 5.5, 9.5, 13.5, 17.5, 21.5]


def test_swapped_axes_are_refused():
    with pytest.raises(GridError, match=r"strip of shape \(1, 6, 2\) does not end in \(y, x, t\) = \(1, 2, 6\)"):
        patchify(np.zeros((1, 6, 2)), TINY)
    with pytest.raises(GridError, match=r"patches of shape \(6, 2\) do not end in \(n, d\) = \(2, 6\)"):
        unpatchify(np.zeros((6, 2)), TINY)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_columns": 0}, r"TokenGrid: \[n_columns\] = 0: input should be greater than or equal to 1"),
        ({"bins": ()}, r"\[bins\] = \(\): tuple should have at least 1 item"),
        ({"bins": (1, 0)}, r"\[bins\] entry 1 = 0: input should be greater than or equal to 1"),
        ({"n_rows": 250}, "n_rows 250 is not a multiple of patch_rows 8"),
        ({"rows": 3}, r"\[rows\]: unknown key; did you mean 'n_rows'"),
    ],
)
def test_impossible_grids(sizes, message):
    with pytest.raises(GridError, match=message):
        TokenGrid(**sizes)


def test_grid_survives_json():
    import json

    grid = TokenGrid(n_columns=7, bins=(1, 2))
    assert TokenGrid(**json.loads(json.dumps(asdict(grid)))) == grid


def test_other_grid_shows_both():
    check_same_grid(TINY, TINY, "store a")
    with pytest.raises(GridError, match=r"store a has TokenGrid.*n_columns=3.*expects TokenGrid.*n_columns=2.*retrain"):
        check_same_grid(replace(TINY, n_columns=3), TINY, "store a")


def test_strips_are_selected_together():
    batch = batch_of(4)
    assert len(batch) == 4
    assert batch[1:3].patches[:, 0, 0].tolist() == [1, 2]
    assert batch[np.array([3, 0])].patches[:, 0, 0].tolist() == [3, 0]
    assert len(batch[np.zeros(4, bool)].features) == 0


def test_concatenation_keeps_order():
    joined = concatenate_strips([batch_of(2), batch_of(1)])
    assert joined.patches[:, 0, 0].tolist() == [0, 1, 0]
    assert len(joined.mask) == 3
